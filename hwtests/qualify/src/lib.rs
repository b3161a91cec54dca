//! Hardware tests that run on a node, and their verdicts. Nothing of it is written yet.
