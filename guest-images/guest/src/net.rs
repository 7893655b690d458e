//! The network card as smoltcp sees it.

use crate::virtio::net::{NetDevice, Receiver, Transmitter};
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

/// An Ethernet frame, without its checksum.
const MAX_FRAME_BYTES: usize = 1514;

impl Device for NetDevice {
    type RxToken<'a> = &'a mut Receiver;
    type TxToken<'a> = &'a mut Transmitter;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // Without room for an answer the frame stays where it is.
        let ready = self.receiver.ready() && self.transmitter.ready();
        ready.then_some((&mut self.receiver, &mut self.transmitter))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        self.transmitter.ready().then_some(&mut self.transmitter)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME_BYTES;
        capabilities
    }
}

impl RxToken for &mut Receiver {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        self.receive(f)
    }
}

impl TxToken for &mut Transmitter {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, f: F) -> R {
        self.transmit(bytes, f)
    }
}
