//! The guests that ftvm carries inside its program.
#![forbid(unsafe_code)]
