//! Tests of unwind tables.
