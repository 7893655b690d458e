//! tmp
#![no_std]
#![no_main]
use ftvm_guest::{guest, println, Boot, pic, clock::Clock, virtio::{net::NetDevice, rng::RngDevice}};
use smoltcp::{iface::*, socket::tcp, wire::*, time::Instant};
extern crate alloc;
use alloc::vec;
fn main(boot: Boot) -> ! {
    println!("kv: {} MiB, cmdline {:?}", boot.memory_bytes >> 20, boot.command_line);
    let mut clock = Clock::start();
    let mut net = NetDevice::open();
    println!("net irq {} mac {:x?}", net.line(), net.mac());
    let mut rng = RngDevice::open();
    pic::enable(1 | 1<<5 | 1<<6);
    let mut seed=[0u8;32];
    if let Some(r)=&mut rng { r.fill(&mut seed); println!("seed {:x?}", seed); }
    let mut c = Config::new(EthernetAddress(net.mac()).into()); c.random_seed = u64::from_le_bytes(seed[..8].try_into().unwrap());
    let now=|c:&mut Clock| Instant::from_micros(c.last_known().0 as i64);
    let mut iface = Interface::new(c, &mut net, now(&mut clock));
    iface.update_ip_addrs(|a| { a.push(IpCidr::new(IpAddress::v4(10, 0, 2, 15), 24)).unwrap(); }); iface.routes_mut().add_default_ipv4_route(Ipv4Address::new(10, 0, 2, 2)).unwrap();
    let mut set = SocketSet::new(vec![]);
    let h: alloc::vec::Vec<_> = (0..8).map(|_| { let mut s=tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 8192]), tcp::SocketBuffer::new(vec![0; 8192])); s.set_ack_delay(None); s.set_nagle_enabled(false); set.add(s)}).collect();
    println!("listening");
    loop {
        let t=now(&mut clock);
        while iface.poll_ingress_single(t, &mut net, &mut set) != PollIngressSingleResult::None {}
        for &h in &h { let s=set.get_mut::<tcp::Socket>(h); if !s.is_open() { s.listen(6379).unwrap(); }
          if s.can_recv() && s.can_send() { let mut b=[0u8;2048]; let k=s.recv_slice(&mut b).unwrap(); s.send_slice(&b[..k]).unwrap(); } else if !s.may_recv() && s.may_send() { s.close(); } }
        iface.poll_egress(t, &mut net, &mut set);
        let d=iface.poll_at(t,&set).map(|i| ftvm_guest::clock::Micros(i.total_micros() as u64));
        let b=net.before_wait();
        clock.wait(d,b);
    }
}
guest!(main);
