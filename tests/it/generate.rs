//! `vb-gen` through its binary.
