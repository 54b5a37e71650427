//! What was typed on the command line, and what is shown for it.
pub mod install;
