//! Multicast over the loopback interface, as any user may do it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use frisbee_udp::{
    BATCH_BYTES_MAX, ClientOptions, ClientSocket, DropCounter, Error, Group, Interface, Offload,
    RecvBatch, ServerOptions, ServerSocket,
};

const SEGMENT: usize = 1056;
/// How long a datagram may be on its way before a test gives it up as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Groups of this file; every test has its own, because tests run at the same time.
fn group(last: u8, port: u16) -> Group {
    Group::new((Ipv4Addr::new(239, 192, 211, last), port).into()).unwrap()
}

fn loopback() -> Interface {
    Interface::find(Some("lo"), Group::default()).unwrap()
}

fn server(group: Group, offload: Offload) -> ServerSocket {
    ServerSocket::open(
        group,
        &loopback(),
        ServerOptions {
            offload,
            ..ServerOptions::default()
        },
    )
    .unwrap()
}

fn client(group: Group, offload: Offload) -> ClientSocket {
    ClientSocket::join(
        group,
        &loopback(),
        ClientOptions {
            offload,
            ..ClientOptions::default()
        },
    )
    .unwrap()
}

/// `count` datagrams, each full of its own number.
fn numbered(count: u8) -> Vec<u8> {
    (0..count).flat_map(|number| [number; SEGMENT]).collect()
}

async fn receive(client: &ClientSocket, bytes: usize) -> (Vec<u8>, Vec<usize>, SocketAddr) {
    let (mut received, mut lengths, mut from) = (Vec::new(), Vec::new(), None);
    let mut batch = RecvBatch::new();
    while received.len() < bytes {
        tokio::time::timeout(PATIENCE, client.recv(&mut batch))
            .await
            .expect("datagrams are missing")
            .unwrap();
        for datagram in batch.datagrams() {
            received.extend_from_slice(datagram.bytes);
            lengths.push(datagram.bytes.len());
            from = Some(datagram.from);
        }
    }
    (received, lengths, from.unwrap())
}

#[tokio::test]
async fn a_batch_reaches_every_client_whole_with_and_without_offload() {
    for (offload, port) in [(Offload::Auto, 17_010), (Offload::Never, 17_011)] {
        let group = group(1, port);
        let server = server(group, offload);
        let clients = [client(group, Offload::Auto), client(group, Offload::Never)];
        let mut bytes = numbered(60);
        bytes.extend_from_slice(&[99; 100]);
        server.multicast(&bytes, SEGMENT).await.unwrap();
        for client in &clients {
            let (received, lengths, from) = receive(client, bytes.len()).await;
            assert_eq!(received, bytes);
            assert_eq!(lengths.len(), 61);
            assert!(lengths[..60].iter().all(|&length| length == SEGMENT));
            assert_eq!(lengths[60], 100);
            assert_eq!(
                from,
                server.local_address().unwrap(),
                "requests go where data comes from"
            );
        }
    }
}

#[tokio::test]
async fn groups_on_the_same_port_do_not_mix() {
    let (one, other) = (group(2, 17_020), group(3, 17_020));
    let (server_one, server_other) = (server(one, Offload::Auto), server(other, Offload::Auto));
    let (client_one, client_other) = (client(one, Offload::Auto), client(other, Offload::Auto));
    assert_ne!(
        server_one.local_address().unwrap(),
        server_other.local_address().unwrap()
    );
    for round in 0..20 {
        server_one.multicast(&[1, round], 2).await.unwrap();
        server_other.multicast(&[2, round], 2).await.unwrap();
    }
    let expected = |mark: u8| (0..20).flat_map(|round| [mark, round]).collect::<Vec<u8>>();
    assert_eq!(receive(&client_one, 40).await.0, expected(1));
    assert_eq!(receive(&client_other, 40).await.0, expected(2));
}

#[tokio::test]
async fn requests_reach_the_server_and_answers_the_one_client_that_asked() {
    let group = group(4, 17_030);
    let server = server(group, Offload::Auto);
    let clients = [client(group, Offload::Auto), client(group, Offload::Auto)];
    for (number, client) in (0..).zip(&clients) {
        client
            .send(server.local_address().unwrap(), &[number; 700])
            .await
            .unwrap();
    }
    let mut batch = RecvBatch::new();
    let mut requests = Vec::new();
    while requests.len() < 2 {
        tokio::time::timeout(PATIENCE, server.recv(&mut batch))
            .await
            .expect("requests are missing")
            .unwrap();
        requests.extend(
            batch
                .datagrams()
                .map(|datagram| (datagram.from, datagram.bytes.to_vec())),
        );
    }
    let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (number, client) in (0..).zip(&clients) {
        assert!(requests.contains(&(client.local_address().unwrap(), vec![number; 700])));
        plain
            .send_to(&[number; 9], client.local_address().unwrap())
            .unwrap();
        assert_eq!(receive(client, 9).await.0, [number; 9]);
    }
}

/// The kernel's table may miss a line while other tests open and close sockets.
fn new_drops(counter: &mut DropCounter) -> u64 {
    (0..1000).find_map(|_| counter.read()).unwrap()
}

#[tokio::test]
async fn datagrams_beyond_the_buffer_are_counted() {
    let group = group(5, 17_040);
    let server = server(group, Offload::Never);
    let options = ClientOptions {
        receive_buffer: 64 << 10,
        offload: Offload::Never,
    };
    let client = ClientSocket::join(group, &loopback(), options).unwrap();
    assert!(!client.receive_buffer().is_short());
    let mut drops = client.drop_counter();
    assert_eq!(new_drops(&mut drops), 0);
    let sent = 40 * 60;
    for _ in 0..40 {
        server.multicast(&numbered(60), SEGMENT).await.unwrap();
    }
    let mut received = 0;
    let mut batch = RecvBatch::new();
    client.recv(&mut batch).await.unwrap();
    loop {
        received += batch.datagrams().count() as u64;
        if client.try_recv(&mut batch).is_err() {
            break;
        }
    }
    assert!(received < sent, "a 64 KiB buffer cannot hold 2.4 MiB");
    assert_eq!(new_drops(&mut drops), sent - received);
    assert_eq!(new_drops(&mut drops), 0, "each drop is reported once");
}

#[tokio::test]
async fn an_address_that_another_program_keeps_for_itself_is_named() {
    let group = group(6, 17_050);
    let SocketAddr::V4(address) = group.address() else {
        unreachable!()
    };
    let keeper = UdpSocket::bind(SocketAddrV4::new(*address.ip(), address.port())).unwrap();
    let error = ClientSocket::join(group, &loopback(), ClientOptions::default()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains("239.192.211.6:17050"), "{error}");
    drop(keeper);
    ClientSocket::join(group, &loopback(), ClientOptions::default()).unwrap();
}

#[tokio::test]
async fn a_batch_that_no_system_call_takes_is_an_error() {
    let server = server(group(7, 17_060), Offload::Auto);
    for (bytes, segment) in [(BATCH_BYTES_MAX + 1, SEGMENT), (65 * 10, 10), (10, 0)] {
        let error = server
            .multicast(&vec![0; bytes], segment)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
