//! Tests of the boot loader.
