//! A disk for a replay: the image as it was, and what the guest writes kept in memory.

use std::collections::BTreeMap;
use std::io;

use super::Storage;
use super::image::DiskImage;
use super::server::answer;
use crate::determinism::DiskDone;
use crate::devices::{BlockOperation, BlockRequest, SECTOR_BYTES};

type Sector = [u8; SECTOR_BYTES as usize];

/// An image that stays as it is, under what was written since.
#[derive(Debug)]
pub struct Overlay {
    image: DiskImage,
    written: BTreeMap<u64, Box<Sector>>,
}

impl Overlay {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(image: DiskImage) -> Self {
        Overlay {
            image,
            written: BTreeMap::new(),
        }
    }

    /// Carries out a request.
    pub fn serve(&mut self, request: BlockRequest) -> DiskDone {
        answer(request.tag, self.carry_out(&request.operation))
    }
}

impl Storage for Overlay {
    fn carry_out(&mut self, operation: &BlockOperation) -> io::Result<Vec<u8>> {
        match operation {
            BlockOperation::Read { sector, bytes } => {
                let mut data = self.image.read(*sector, *bytes)?;
                let end = sector + u64::from(*bytes) / SECTOR_BYTES;
                for (number, written) in self.written.range(*sector..end) {
                    let at = ((number - sector) * SECTOR_BYTES) as usize;
                    data[at..at + written.len()].copy_from_slice(&written[..]);
                }
                Ok(data)
            }
            BlockOperation::Write { sector, data } => {
                let (sectors, _) = data.as_chunks::<{ SECTOR_BYTES as usize }>();
                for (number, bytes) in (*sector..).zip(sectors) {
                    self.written.insert(number, Box::new(*bytes));
                }
                Ok(Vec::new())
            }
            BlockOperation::Flush => Ok(Vec::new()),
        }
    }
}
