//! Requests and answers over the in-memory network: pipelining, limits, breaks and coming back.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::transport::memory::{MemoryEndpoint, MemoryNetwork};

const ECHO: u8 = 1;
const FAIL: u8 = 2;
const HANG: u8 = 3;
const HUGE: u8 = 4;
const PANIC: u8 = 5;
const SLOW_FIRST: u8 = 6;
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Service {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

impl Handler for Service {
    fn handle(&self, from: NodeId, service: u8, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (running, most, release) = (self.running.clone(), self.most.clone(), self.release.clone());
        Box::pin(async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let answer = match service {
                ECHO => Ok(request),
                FAIL => Err(format!("no luck, {}", from.short())),
                HUGE => Ok(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])),
                PANIC => panic!("a broken service"),
                SLOW_FIRST if request[0] > 0 => Ok(request),
                HANG | SLOW_FIRST => {
                    release.notified().await;
                    Ok(request)
                }
                _ => Err("unknown service".into()),
            };
            running.fetch_sub(1, Ordering::SeqCst);
            answer
        })
    }
}

struct Setting {
    network: MemoryNetwork,
    caller: MemoryEndpoint,
    server: NodeId,
    service: Arc<Service>,
}

fn setting() -> Setting {
    let network = MemoryNetwork::new();
    let (unused, _) = mpsc::channel(1);
    let caller = network.add(NodeId::random(), unused);
    let setting = Setting { network, caller, server: NodeId::random(), service: Arc::default() };
    setting.serve();
    setting
}

impl Setting {
    fn serve(&self) {
        let (incoming, mut channels) = mpsc::channel(4);
        self.network.add(self.server, incoming);
        let service = self.service.clone();
        tokio::spawn(async move {
            while let Some(channel) = channels.recv().await {
                tokio::spawn(serve(channel, service.clone()));
            }
        });
    }

    fn client(&self) -> RpcClient {
        RpcClient::new(Arc::new(self.caller.clone()), self.server, Purpose::Control)
    }
}

#[tokio::test]
async fn calls_are_answered_in_any_order_with_typed_errors() {
    let s = setting();
    let client = s.client();
    assert_eq!(client.call(ECHO, Bytes::from("hello"), LIMIT).await.unwrap(), "hello");
    assert!(client.is_connected());
    let failed = client.call(FAIL, Bytes::new(), LIMIT).await;
    assert_eq!(failed, Err(RpcError::Remote(format!("no luck, {}", s.caller.node().short()))));
    let huge = client.call(HUGE, Bytes::new(), LIMIT).await;
    assert_eq!(huge, Err(RpcError::Remote("the answer is too long".into())));
    let long = client.call(ECHO, Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]), LIMIT).await;
    assert_eq!(long, Err(RpcError::TooLong));

    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call(SLOW_FIRST, Bytes::from(vec![0]), LIMIT).await }
    });
    while s.service.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.call(SLOW_FIRST, Bytes::from(vec![9]), LIMIT).await.unwrap()[..], [9]);
    s.service.release.notify_one();
    assert_eq!(slow.await.unwrap().unwrap()[..], [0]);
}

#[tokio::test]
async fn what_runs_at_once_is_bounded_and_nothing_is_lost() {
    let s = setting();
    let client = s.client();
    let calls: Vec<_> = (0..300_u16)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.call(HANG, number.to_le_bytes().to_vec().into(), LIMIT).await })
        })
        .collect();
    let mut answered = 0;
    while answered < 300 {
        s.service.release.notify_one();
        tokio::task::yield_now().await;
        answered = calls.iter().filter(|call| call.is_finished()).count();
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap()[..], (number as u16).to_le_bytes());
    }
    assert_eq!(s.service.most.load(Ordering::SeqCst), CONCURRENT_REQUESTS_MAX);
}

#[tokio::test]
async fn a_call_has_its_time_and_the_next_one_is_not_disturbed() {
    let s = setting();
    let client = s.client();
    let started = Instant::now();
    let limit = Duration::from_millis(100);
    assert_eq!(client.call(HANG, Bytes::new(), limit).await, Err(RpcError::TimedOut));
    assert!(started.elapsed() >= limit && started.elapsed() < LIMIT);
    s.service.release.notify_one();
    assert_eq!(client.call(ECHO, Bytes::from("on"), LIMIT).await.unwrap(), "on");
}

#[tokio::test]
async fn a_break_fails_the_calls_in_flight_and_the_next_call_reconnects() {
    let s = setting();
    let client = s.client();
    client.call(ECHO, Bytes::new(), LIMIT).await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call(HANG, Bytes::new(), Duration::from_secs(3600)).await }
    });
    while s.service.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    s.network.remove(s.server);
    assert_eq!(timeout(LIMIT, call).await.unwrap().unwrap(), Err(RpcError::Broken));
    assert!(!client.is_connected());

    let down = client.call(ECHO, Bytes::new(), LIMIT).await;
    assert!(matches!(&down, Err(RpcError::Connect(ConnectError::Unreachable(why))) if why.contains("is down")));
    s.serve();
    // Within the pause the last reason is given at once; after it the node is tried again.
    let mut failures = 0;
    while client.call(ECHO, Bytes::new(), LIMIT).await != Ok(Bytes::new()) {
        failures += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(failures > 0, "the pause was not kept");
}

#[tokio::test]
async fn a_short_call_does_not_throw_away_the_connection_being_made() {
    let s = setting();
    let client = s.client();
    s.network.hold(s.caller.node(), s.server);
    let short = client.call(ECHO, Bytes::new(), Duration::from_millis(200)).await;
    assert_eq!(short, Err(RpcError::TimedOut));
    s.network.heal(s.caller.node(), s.server);
    client.call(ECHO, Bytes::new(), Duration::from_millis(200)).await.unwrap();
}

#[tokio::test]
async fn a_service_that_panics_fails_the_call_at_once() {
    let s = setting();
    let client = s.client();
    assert_eq!(client.call(PANIC, Bytes::new(), LIMIT).await, Err(RpcError::Broken));
    assert_eq!(client.call(ECHO, Bytes::from("on"), LIMIT).await.unwrap(), "on");
}

#[tokio::test]
async fn a_join_channel_carries_one_request() {
    let s = setting();
    let channel = s.caller.connect(s.server, Purpose::Join).await.unwrap();
    assert_eq!(ask(channel, ECHO, Bytes::from("let me in"), LIMIT).await.unwrap(), "let me in");
    let client = RpcClient::new(Arc::new(s.caller.clone()), s.server, Purpose::Join);
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.call(HANG, Bytes::new(), LIMIT).await }
    });
    while s.service.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The second is never looked at; the first still gets its answer, and then the connection ends.
    let (second, ()) = tokio::join!(client.call(ECHO, Bytes::new(), LIMIT), async { s.service.release.notify_one() });
    assert_eq!(second, Err(RpcError::Broken));
    assert_eq!(first.await.unwrap(), Ok(Bytes::new()));
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_is_cut_off() {
    let s = setting();
    let mut channel = s.caller.connect(s.server, Purpose::Control).await.unwrap();
    channel.sender.send(Frame::one("short")).unwrap();
    assert_eq!(channel.receiver.recv().await, None);
    channel.sender.closed().await;
}

proptest! {
    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        fuzz_message(&bytes);
    }
}
