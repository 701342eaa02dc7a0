//! A queue beside the loop, for work that nothing waits for: bounded in items and in bytes. What does not fit is refused at once, and
//! is the caller's to count.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The way in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offers<T> {
    sender: mpsc::Sender<Offered<T>>,
    bytes: Arc<Semaphore>,
}

/// An item, and the room that it takes until this is dropped.
#[derive(Debug)]
pub struct Offered<T> {
    /// The item.
    pub item: T,
    room: OwnedSemaphorePermit,
}

/// The way out.
pub type Taken<T> = mpsc::Receiver<Offered<T>>;

/// A queue of at most so many items and bytes, those included that were taken out and are still worked on.
pub fn channel<T>(items: usize, bytes: usize) -> (Offers<T>, Taken<T>) {
    let (sender, receiver) = mpsc::channel(items);
    (Offers { sender, bytes: Arc::new(Semaphore::new(bytes)) }, receiver)
}

impl<T> Offers<T> {
    /// Puts an item of about so many bytes into the queue; false if it does not fit. Never waits.
    pub fn offer(&self, item: T, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.bytes).try_acquire_many_owned(bytes) else { return false };
        self.sender.try_send(Offered { item, room }).is_ok()
    }
}

impl<T> Offered<T> {
    /// The item, and apart from it what keeps its room taken.
    pub fn into_parts(self) -> (T, OwnedSemaphorePermit) {
        (self.item, self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_keeps_its_room_until_it_is_done() {
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
    fn a_queue_without_places_takes_no_room() {
        let (offers, mut taken) = channel(1, 100);
        assert!(offers.offer(1, 1) && !offers.offer(2, 99));
        drop(taken.try_recv().unwrap());
        assert!(offers.offer(3, 100));
    }
}
