//! Tests of unwind tables, on files made of given records and on those of the system.

mod files;
mod instructions;
mod places;
mod judges;
mod damage;
mod cache;
