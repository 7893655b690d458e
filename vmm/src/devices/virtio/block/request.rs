//! What a chain of buffers asks of the device (virtio 1.2, section 5.2.6).
//!
//! ```text
//!   the device reads:  type u32 │ reserved u32 │ sector u64 │ data of a write
//!   it writes:         data of a read or an identification │ status u8
//! ```

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::{BlockOperation, DiskShape, MAX_REQUEST_BYTES};
use crate::devices::GuestMemory;
use crate::devices::virtio::queue::{Broken, Exchange};

const HEADER_BYTES: u64 = 16;

/// The device's serial number, padded with zeros.
const ID: &[u8] = b"ftvm-disk";

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The disk is needed.
    ForTheDisk(BlockOperation),
    /// It is answered at once.
    Answer { status: u32, data: Vec<u8> },
}

/// Reads a request. One that the disk cannot carry out is answered with an error; one without
/// header, or without room for its status, is the driver's own fault.
pub(super) fn parse(
    exchange: &Exchange,
    disk: DiskShape,
    mem: &GuestMemory,
) -> Result<Parsed, Broken> {
    let error = |status| Parsed::Answer {
        status,
        data: Vec::new(),
    };
    let (sent, room) = (exchange.request.len(), exchange.answer.len());
    if sent < HEADER_BYTES || room < 1 {
        return Err(Broken::EmptyRequest);
    }
    let (sent, room) = (sent - HEADER_BYTES, room - 1);
    if sent.max(room) > u64::from(MAX_REQUEST_BYTES) {
        return Ok(error(VIRTIO_BLK_S_IOERR));
    }
    let mut bytes = Vec::with_capacity((HEADER_BYTES + sent) as usize);
    exchange.request.read(mem, &mut bytes)?;
    let data = bytes.split_off(HEADER_BYTES as usize);
    let kind = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"));
    let sector = u64::from_le_bytes(bytes[8..].try_into().expect("8 bytes"));
    let operation = match kind {
        VIRTIO_BLK_T_IN => BlockOperation::Read {
            sector,
            bytes: room as u32,
        },
        VIRTIO_BLK_T_OUT => BlockOperation::Write { sector, data },
        VIRTIO_BLK_T_FLUSH => BlockOperation::Flush,
        VIRTIO_BLK_T_GET_ID => {
            let mut id = ID.to_vec();
            id.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
            return Ok(Parsed::Answer {
                status: VIRTIO_BLK_S_OK,
                data: id,
            });
        }
        _ => return Ok(error(VIRTIO_BLK_S_UNSUPP)),
    };
    Ok(if operation.fits(disk) {
        Parsed::ForTheDisk(operation)
    } else {
        error(VIRTIO_BLK_S_IOERR)
    })
}
