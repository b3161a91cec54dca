//! How several threads fail as one: the first error is kept, and the others stop when they see it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::write::WriteError;

/// The first failure of several threads.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    stop: AtomicBool,
    first: Mutex<Option<WriteError>>,
}

impl Failure {
    pub(crate) fn is_set(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes an error, if `result` is one.
    pub(crate) fn note<T>(&self, result: Result<T, WriteError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.stop.store(true, Ordering::Relaxed);
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                None
            }
        }
    }

    pub(crate) fn into_result(self) -> Result<(), WriteError> {
        match self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
