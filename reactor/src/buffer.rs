//! Receive buffers: few, small, and hot.
//!
//! A [`Group`] is one region of equal buffers that a driver receives into. [`Buf`] is a counted view
//! of one of them, or of owned memory; the last view gives the buffer back to its group, from where
//! the driver publishes it again. The free list is LIFO, so the buffer used next is the one most
//! likely still in the cache.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::ledger::{Charge, Ledger};
use crate::sys::Region;

/// A view of received bytes. Not `Send`: a buffer belongs to its worker.
pub struct Buf {
    data: NonNull<u8>,
    len: u32,
    /// Counts the views of the underlying memory; alive while any view is.
    chunk: NonNull<Chunk>,
}

struct Chunk {
    /// Views that exist.
    views: Cell<u32>,
    home: Home,
}

/// Where the memory goes when the last view is dropped.
enum Home {
    /// Buffer `id` of a group. While a view exists the group's strong count includes one for it.
    Group { group: *const Group, id: u16 },
    /// Memory of its own, charged if it stands for a receive buffer.
    Owned { bytes: Box<[u8]>, _charge: Option<Charge> },
}

/// Equal buffers that a driver receives into.
pub(crate) struct Group {
    region: Region,
    buffer_size: usize,
    free: RefCell<Vec<u16>>,
    /// Buffers in views; at most three quarters of all.
    held: Cell<usize>,
    /// Copies for want of buffers are charged here.
    ledger: Rc<Ledger>,
    chunks: Box<[Chunk]>,
}

impl Group {
    /// `count` buffers of `buffer_size` bytes. Memory becomes resident as buffers are first used.
    pub(crate) fn new(
        count: u16,
        buffer_size: usize,
        ledger: &Rc<Ledger>,
    ) -> std::io::Result<Rc<Group>> {
        let region = Region::new(usize::from(count) * buffer_size)?;
        Ok(Rc::new_cyclic(|group| Group {
            region,
            buffer_size,
            free: RefCell::new((0..count).rev().collect()),
            held: Cell::new(0),
            ledger: ledger.clone(),
            chunks: (0..count)
                .map(|id| Chunk {
                    views: Cell::new(0),
                    home: Home::Group { group: group.as_ptr(), id },
                })
                .collect(),
        }))
    }

    /// Bytes in one buffer.
    pub(crate) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// How many buffers the group has.
    pub(crate) fn count(&self) -> usize {
        self.chunks.len()
    }

    /// How many buffers are neither with the driver nor in a view.
    pub(crate) fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// The budget that the group belongs to.
    pub(crate) fn ledger(&self) -> &Rc<Ledger> {
        &self.ledger
    }

    /// How much a receive may bring, if its socket has room for `allowance`.
    pub(crate) fn cap(&self, allowance: u32) -> u32 {
        let most = if self.ledger.is_short() { self.buffer_size as u32 } else { u32::MAX };
        allowance.min(most).max(1)
    }

    /// How many buffers are in views.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Hands buffer memory to the driver. It comes back through [`Group::fill`] or
    /// [`Group::put_back`].
    pub(crate) fn take(&self) -> Option<u16> {
        self.free.borrow_mut().pop()
    }

    /// Takes back a buffer that the driver did not fill.
    pub(crate) fn put_back(&self, id: u16) {
        debug_assert_eq!(self.chunks[usize::from(id)].views.get(), 0);
        self.free.borrow_mut().push(id);
    }

    /// Where buffer `id` begins.
    pub(crate) fn address(&self, id: u16) -> NonNull<u8> {
        assert!(usize::from(id) < self.chunks.len());
        self.region.at(usize::from(id) * self.buffer_size)
    }

    /// Makes the first view of a buffer that the driver has filled with `len` bytes.
    ///
    /// When three quarters of the buffers are in views (readers that do not read, sends that are not
    /// taken), the bytes are copied to owned memory instead: whoever holds on to what it received
    /// cannot keep the others from receiving.
    pub(crate) fn fill(self: &Rc<Self>, id: u16, len: usize) -> Buf {
        assert!(len <= self.buffer_size);
        let chunk = &self.chunks[usize::from(id)];
        assert_eq!(chunk.views.replace(1), 0, "the driver had this buffer");
        self.held.set(self.held.get() + 1);
        // The view keeps the group alive; dropping the last view gives this count back.
        let _ = Rc::into_raw(self.clone());
        let buf = Buf { data: self.address(id), len: len as u32, chunk: NonNull::from(chunk) };
        let scarce = self.held.get() > self.count() * 3 / 4;
        if scarce { buf.into_owned() } else { buf }
    }
}

impl Group {
    /// Fills a buffer that was taken with `bytes`, as a driver without a kernel does.
    pub(crate) fn fill_from(self: &Rc<Self>, id: u16, bytes: &[u8]) -> Buf {
        assert!(bytes.len() <= self.buffer_size);
        assert_eq!(self.chunks[usize::from(id)].views.get(), 0, "the driver has this buffer");
        // SAFETY: the buffer has room, no view of it exists, and `bytes`, borrowed from elsewhere,
        // cannot be part of it.
        unsafe {
            self.address(id).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        self.fill(id, bytes.len())
    }
}

impl Buf {
    /// A view of owned memory.
    pub fn from_vec(bytes: Vec<u8>) -> Buf {
        Buf::owned(bytes, None)
    }

    fn owned(bytes: Vec<u8>, charge: Option<Charge>) -> Buf {
        let len = u32::try_from(bytes.len()).expect("a buffer is smaller than 4 GiB");
        let home = Home::Owned { bytes: bytes.into_boxed_slice(), _charge: charge };
        let chunk = Box::new(Chunk { views: Cell::new(1), home });
        let Home::Owned { bytes, .. } = &chunk.home else { unreachable!("just made") };
        let data = NonNull::from(&bytes[..]).cast();
        Buf { data, len, chunk: NonNull::from(Box::leak(chunk)) }
    }

    /// Cuts the first `at` bytes off into a view of their own. Both share the memory.
    ///
    /// # Panics
    /// If `at` is more than the length.
    pub fn split_to(&mut self, at: usize) -> Buf {
        let head = self.slice(at);
        self.advance(at);
        head
    }

    /// A second view of the first `len` bytes.
    fn slice(&self, len: usize) -> Buf {
        assert!(len <= self.len());
        let chunk = self.chunk();
        chunk.views.set(chunk.views.get() + 1);
        Buf { data: self.data, len: len as u32, chunk: self.chunk }
    }

    /// Forgets the first `by` bytes.
    ///
    /// # Panics
    /// If `by` is more than the length.
    pub fn advance(&mut self, by: usize) {
        assert!(by <= self.len());
        // SAFETY: at most one past the end of this view's memory.
        self.data = unsafe { self.data.add(by) };
        self.len -= by as u32;
    }

    /// Forgets all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// The bytes, to be changed, if this is the only view of the memory.
    pub fn unsplit_mut(&mut self) -> Option<&mut [u8]> {
        if self.chunk().views.get() != 1 {
            return None;
        }
        // SAFETY: `data..data+len` is initialised memory of the chunk, and this is its only view.
        Some(unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len()) })
    }

    /// The same bytes without a receive buffer held: a copy, unless the memory is owned already.
    /// What waits for a peer must not keep others from receiving.
    pub fn into_owned(self) -> Buf {
        match self.chunk().home {
            Home::Owned { .. } => self,
            Home::Group { group, .. } => {
                // SAFETY: this view keeps the group alive.
                let ledger = unsafe { &(*group).ledger };
                Buf::owned(self.to_vec(), Some(ledger.charge(self.len())))
            }
        }
    }

    fn chunk(&self) -> &Chunk {
        // SAFETY: the chunk lives while `views` counts this view.
        unsafe { self.chunk.as_ref() }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let chunk = self.chunk();
        let views = chunk.views.get() - 1;
        chunk.views.set(views);
        if views > 0 {
            return;
        }
        match chunk.home {
            Home::Group { group, id } => {
                // SAFETY: `fill` leaked one strong count for this view; taking it back here keeps the
                // group alive until the end of this block.
                let group = unsafe { Rc::from_raw(group) };
                group.held.set(group.held.get() - 1);
                group.put_back(id);
            }
            // SAFETY: `from_vec` leaked this box, and no other view remains.
            Home::Owned { .. } => drop(unsafe { Box::from_raw(self.chunk.as_ptr()) }),
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `data..data+len` is initialised memory of the chunk, which this view keeps, and
        // only `unsplit_mut` on the sole view hands out a mutable borrow.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_view_gives_the_buffer_back() {
        let group = Group::new(4, 64, &Ledger::new()).unwrap();
        let id = group.take().unwrap();
        let mut buf = group.fill(id, 10);
        assert_eq!((buf.len(), group.free()), (10, 3));
        let head = buf.split_to(4);
        assert_eq!((head.len(), buf.len()), (4, 6));
        assert!(buf.unsplit_mut().is_none());
        drop(head);
        buf.unsplit_mut().unwrap()[0] = 7;
        assert_eq!(buf[0], 7);
        drop(buf);
        assert_eq!(group.free(), 4);
        assert_eq!(group.take(), Some(id), "LIFO: the hot buffer first");
    }

    #[test]
    fn a_view_outlives_its_group() {
        let group = Group::new(1, 64, &Ledger::new()).unwrap();
        let id = group.take().unwrap();
        let buf = group.fill(id, 64);
        drop(group);
        assert_eq!(buf.to_vec(), vec![0; 64]);
    }

    #[test]
    fn a_quarter_of_the_buffers_is_never_held() {
        let group = Group::new(4, 64, &Ledger::new()).unwrap();
        let held: Vec<Buf> = (0..10).map(|_| group.fill(group.take().unwrap(), 64)).collect();
        assert_eq!((held.len(), group.held(), group.free()), (10, 3, 1));
        drop(held);
        assert_eq!((group.held(), group.free()), (0, 4));
    }

    #[test]
    fn owned_memory_is_a_buf_too() {
        let mut buf = Buf::from_vec(b"hello world".to_vec());
        assert_eq!(&*buf.split_to(6), b"hello ");
        assert_eq!(&*buf.into_owned(), b"world");
    }

    #[test]
    fn a_view_is_three_words() {
        assert_eq!(size_of::<Buf>(), 24);
    }
}
