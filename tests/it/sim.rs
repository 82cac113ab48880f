//! `vb-sim` through its binary.
