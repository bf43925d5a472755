//! Wire.
#![no_std]
