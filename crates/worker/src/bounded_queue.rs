//! A queue for background work that the loop does not wait for, bounded in items and in bytes. An item that does not fit is refused at
//! once; the caller counts it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The sending half. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offers<T> {
    sender: mpsc::Sender<Offered<T>>,
    bytes: Arc<Semaphore>,
}

/// An item, with the bytes of the queue's capacity that it occupies until this is dropped.
#[derive(Debug)]
pub struct Offered<T> {
    /// The item.
    pub item: T,
    room: OwnedSemaphorePermit,
}

/// The receiving half.
pub type Taken<T> = mpsc::Receiver<Offered<T>>;

/// Makes a queue of at most this many items and bytes. The bytes include items that were received and are still in use.
pub fn channel<T>(items: usize, bytes: usize) -> (Offers<T>, Taken<T>) {
    let (sender, receiver) = mpsc::channel(items);
    (Offers { sender, bytes: Arc::new(Semaphore::new(bytes)) }, receiver)
}

impl<T> Offers<T> {
    /// Adds an item of about this many bytes; `false` if it does not fit. Never waits.
    pub fn offer(&self, item: T, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) else { return false };
        self.sender.try_send(Offered { item, room }).is_ok()
    }
}

impl<T> Offered<T> {
    /// Separates the item from the permit that occupies its bytes.
    pub fn into_parts(self) -> (T, OwnedSemaphorePermit) {
        (self.item, self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_received_item_occupies_its_bytes_until_it_is_dropped() {
        let (offers, mut taken) = channel(10, 100);
        assert!(offers.offer("first", 60) && !offers.offer("second", 60) && offers.offer("third", 40));
        let first = taken.try_recv().unwrap();
        assert!(!offers.offer("second", 60));
        drop(first);
        assert!(offers.offer("second", 60));
        assert_eq!(taken.try_recv().unwrap().into_parts().0, "third");
        assert!(!offers.offer("larger than the queue", 101));
    }

    #[test]
    fn an_item_that_is_refused_occupies_no_bytes() {
        let (offers, mut taken) = channel(1, 100);
        assert!(offers.offer(1, 1) && !offers.offer(2, 99));
        drop(taken.try_recv().unwrap());
        assert!(offers.offer(3, 100));
    }
}
