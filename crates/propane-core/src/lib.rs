//! The supervisor's decisions: state, event and time in, actions out.
