//! `vb-agg` through its binary.
