//! Plugins in any language that has a Jupyter kernel.
pub mod kernelspec;
pub mod language;
