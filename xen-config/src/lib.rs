//! The desired state of a dom0 node and how it is rendered. Nothing of it is written yet.
