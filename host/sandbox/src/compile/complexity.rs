//! Refusals of modules that are too expensive.

use crate::error::{CompileCode, CompileError};

pub(crate) fn within(count: u64, limit: u64, what: &str) -> Result<(), CompileError> {
    if count <= limit {
        return Ok(());
    }
    Err(complex(format!("the module is too complex to compile safely: {count} {what}, more than {limit}")))
}

pub(crate) fn complex(message: String) -> CompileError {
    CompileError::new(CompileCode::ModuleTooComplex, message)
}
