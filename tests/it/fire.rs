//! `vb-fire` through its binary.
