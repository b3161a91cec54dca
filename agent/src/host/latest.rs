//! A place for one value between two threads, of which only the newest counts.

use std::sync::{Condvar, Mutex, PoisonError};

/// Holds the newest value that nobody took yet.
#[derive(Debug)]
pub(crate) struct Latest<T> {
    value: Mutex<Option<T>>,
    more: Condvar,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Latest { value: Mutex::new(None), more: Condvar::new() }
    }
}

impl<T> Latest<T> {
    /// Puts a value there, in the place of one that nobody took.
    pub(crate) fn put(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.more.notify_one();
    }

    /// Takes the value, once there is one.
    pub(crate) fn take(&self) -> T {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match value.take() {
                Some(value) => return value,
                None => value = self.more.wait(value).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Takes the value if there is one.
    pub(crate) fn newer(&self) -> Option<T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn only_the_newest_is_taken_and_the_last_is_never_lost() {
        let latest = Arc::new(Latest::default());
        latest.put(1);
        latest.put(2);
        assert_eq!((latest.take(), latest.newer()), (2, None));
        let from = latest.clone();
        let taker = thread::spawn(move || {
            let mut last = 0;
            while last < 1000 {
                let next = from.take();
                assert!(next > last, "{next} after {last}");
                last = next;
            }
        });
        (3..=1000).for_each(|value| latest.put(value));
        taker.join().unwrap();
    }
}
