//! `billet-agent`.
fn main() {}
