//! `vb-stats` through its binary.
