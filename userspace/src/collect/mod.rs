//! From bytes in rings to records in the order of their time.
//!
//! Two sources: the ring buffer of our programs and, a CPU, the ring of mapping records. Both are copied out first and
//! then told in one order, so that a stack meets the mappings that it was taken under. The buffers are kept, so that a
//! drain allocates nothing in steady state.

pub mod mapping_records;
pub mod ring;
pub mod rows;

use crate::load::Kernel;
pub use mapping_records::{MappingEvent, NewMapping};
pub use ring::{RingRecord, StackFrames};

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// From our programs.
    Ring(RingRecord<'a>),
    /// From the kernel's mapping records.
    Mapping(MappingEvent<'a>),
}

/// Where a record stands in the buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    time_ns: u64,
    from_ring: bool,
    start: u32,
    bytes: u32,
}

/// Drains everything that the kernel side has to tell.
#[derive(Default)]
pub struct Collector {
    ring_bytes: Vec<u8>,
    mapping_bytes: Vec<u8>,
    places: Vec<Place>,
    /// Records that were not what they should be: never seen, but counted.
    pub malformed: u64,
}

impl Collector {
    /// Hands every waiting record to `each`, in the order of time.
    ///
    /// The ring buffer is copied before the mapping records: a mapping that a stack needs was then recorded before
    /// its ring is read.
    pub fn drain(&mut self, kernel: &mut Kernel, mut each: impl FnMut(Event<'_>)) {
        self.ring_bytes.clear();
        self.mapping_bytes.clear();
        self.places.clear();
        let (places, ring_bytes) = (&mut self.places, &mut self.ring_bytes);
        let mut malformed = 0;
        kernel.events.drain(|record| match ring::time_ns(record) {
            Some(time_ns) => {
                let start = ring_bytes.len() as u32;
                places.push(Place { time_ns, from_ring: true, start, bytes: record.len() as u32 });
                ring_bytes.extend_from_slice(record);
            }
            None => malformed += 1,
        });
        self.malformed += malformed;
        for ring in &mut kernel.mapping_rings {
            ring.drain(&mut self.mapping_bytes);
        }
        let places = &mut self.places;
        mapping_records::split(&self.mapping_bytes, |time_ns, range| {
            places.push(Place {
                time_ns,
                from_ring: false,
                start: range.start as u32,
                bytes: range.len() as u32,
            });
        });
        self.places.sort_unstable();
        for place in &self.places {
            let range = place.start as usize..place.start as usize + place.bytes as usize;
            let event = if place.from_ring {
                self.ring_bytes.get(range).and_then(ring::parse).map(Event::Ring)
            } else {
                self.mapping_bytes.get(range).and_then(mapping_records::parse).map(Event::Mapping)
            };
            match event {
                Some(event) => each(event),
                None => self.malformed += u64::from(place.from_ring),
            }
        }
    }
}
