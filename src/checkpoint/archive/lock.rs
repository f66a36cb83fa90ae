//! Taking a lock, whatever happened to whoever had it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A poisoned lock means that a thread panicked; what is behind these locks is changed in single steps and stays sound.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
