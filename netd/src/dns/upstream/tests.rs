//! Against servers of the tests' own, on the loopback device.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

/// A server that does what its handler says for the n-th packet (over UDP), and answers whatever comes over TCP.
struct Fake {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Fake {
    async fn start(handle: impl Fn(usize, Message) -> Vec<Message> + Send + 'static) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((n, client)) = udp.recv_from(&mut buffer).await {
                let n_th = counter.fetch_add(1, Ordering::SeqCst);
                for reply in handle(n_th, Message::from_vec(&buffer[..n]).unwrap()) {
                    udp.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let length = stream.read_u16().await.unwrap();
                let mut packet = vec![0; length.into()];
                stream.read_exact(&mut packet).await.unwrap();
                let reply = good(Message::from_vec(&packet).unwrap(), 50).to_vec().unwrap();
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        Self { address, asked }
    }

    /// Answers with one address.
    async fn good() -> Self {
        Self::start(|_, request| vec![good(request, 1)]).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn good(mut message: Message, answers: u8) -> Message {
    message.metadata.message_type = MessageType::Response;
    message.edns = None;
    let owner = message.queries[0].name().clone();
    let record = |n| Record::from_rdata(owner.clone(), 60, RData::A(A::new(198, 51, 100, n)));
    message.answers = (0..answers).map(record).collect();
    message
}

fn failed(message: Message, code: ResponseCode) -> Message {
    let mut message = good(message, 0);
    message.metadata.response_code = code;
    message
}

fn upstreams(servers: &[SocketAddr]) -> Upstreams {
    Upstreams::new(Some(servers.to_vec()), &Handle::current())
}

fn question(name: &str, limit: usize) -> Question {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    Question::new(&message.to_vec().unwrap(), limit, None, false).unwrap()
}

async fn ask(upstreams: &Upstreams, name: &str) -> Option<Message> {
    let reply = upstreams.ask(&question(name, 512)).await?;
    Some(Message::from_vec(&reply).unwrap())
}

#[tokio::test]
async fn what_is_known_is_not_asked_again_and_each_gets_its_own_spelling() {
    let server = Fake::good().await;
    let upstreams = upstreams(&[server.address]);
    assert_eq!(upstreams.known(&question("example.com.", 512)), None);
    assert_eq!(ask(&upstreams, "example.com.").await.unwrap().answers.len(), 1);
    let known = upstreams.known(&question("ExAmPle.com.", 512)).unwrap();
    let known = Message::from_vec(&known).unwrap();
    assert_eq!((known.metadata.id, known.answers.len()), (99, 1));
    assert_eq!(known.queries[0].name().to_string(), "ExAmPle.com.");
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn the_same_question_of_many_is_asked_once() {
    let server = Fake::good().await;
    let upstreams = upstreams(&[server.address]);
    // All of them ask before the runtime gets round to the server.
    let all = (0..100).map(|_| ask(&upstreams, "example.com."));
    let answers = futures::future::join_all(all).await;
    assert!(
        answers
            .iter()
            .all(|a| a.as_ref().is_some_and(|m| m.answers.len() == 1))
    );
    assert_eq!(server.asked(), 1);
    assert!(lock(&upstreams.0.state).flights.is_empty());
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_dead_silent_or_at_a_loss() {
    let good = Fake::good().await;
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = Fake::start(|_, _| vec![]).await;
    let lost = Fake::start(|_, m| vec![failed(m, ResponseCode::ServFail)]).await;
    for first in [closed, silent.address, lost.address] {
        let upstreams = upstreams(&[first, good.address]);
        assert_eq!(
            ask(&upstreams, "example.com.").await.unwrap().answers.len(),
            1,
            "{first}"
        );
    }
    let asked = lost.asked();
    let neither = ask(&upstreams(&[silent.address, lost.address]), "example.com.").await;
    assert_eq!(neither.unwrap().metadata.response_code, ResponseCode::ServFail);
    assert_eq!(
        lost.asked(),
        asked + 1,
        "what it does not know it is not asked again"
    );
    let only = upstreams(&[lost.address]);
    let code = ask(&only, "example.com.").await.unwrap().metadata.response_code;
    assert_eq!((code, lost.asked()), (ResponseCode::ServFail, asked + 2));
    assert_eq!(only.known(&question("example.com.", 512)), None);
    assert_eq!(ask(&upstreams(&[closed]), "example.com.").await, None);
    assert_eq!(ask(&upstreams(&[]), "example.com.").await, None);
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let server = Fake::start(|_, request| {
        let (mut id, mut question) = (good(request.clone(), 9), good(request.clone(), 9));
        id.metadata.id = id.metadata.id.wrapping_add(1);
        question.queries[0] = Query::query(Name::from_ascii("evil.com.").unwrap(), RecordType::A);
        let mut echo = request.clone();
        echo.edns = None;
        vec![id, question, echo, good(request, 1)]
    })
    .await;
    let answer = ask(&upstreams(&[server.address]), "example.com.").await.unwrap();
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn what_is_truncated_is_fetched_over_tcp_and_cut_for_who_cannot_take_it() {
    let server = Fake::start(|_, request| {
        let mut cut = good(request, 0);
        cut.metadata.truncation = true;
        vec![cut]
    })
    .await;
    let upstreams = upstreams(&[server.address]);
    let cut = ask(&upstreams, "example.com.").await.unwrap();
    assert!(cut.metadata.truncation && !cut.answers.is_empty());
    let whole = upstreams.known(&question("example.com.", 65535)).unwrap();
    let whole = Message::from_vec(&whole).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 50);
}

#[tokio::test]
async fn servers_from_before_edns_are_asked_without() {
    let server = Fake::start(|_, request| match request.edns {
        Some(_) => vec![failed(request, ResponseCode::FormErr)],
        None => vec![good(request, 1)],
    })
    .await;
    let answer = ask(&upstreams(&[server.address]), "example.com.").await.unwrap();
    assert_eq!((answer.answers.len(), server.asked()), (1, 2));
}

#[tokio::test]
async fn beyond_its_bounds_it_says_so_at_once() {
    let server = Fake::good().await;
    let upstreams = upstreams(&[server.address]);
    let all = upstreams
        .0
        .permits
        .clone()
        .acquire_many_owned(CONCURRENT as u32)
        .await
        .unwrap();
    assert_eq!(ask(&upstreams, "example.com.").await, None);
    drop(all);
    assert!(ask(&upstreams, "example.com.").await.is_some());
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn other_servers_mean_other_answers_and_a_file_being_written_means_nothing() {
    let (one, two) = (Fake::good().await, Fake::good().await);
    let upstreams = upstreams(&[one.address]);
    ask(&upstreams, "example.com.").await.unwrap();
    let resolv = |servers: &[SocketAddr]| Resolv {
        servers: servers.into(),
        search: vec![],
    };
    lock(&upstreams.0.state).change(resolv(&[]));
    assert!(upstreams.known(&question("example.com.", 512)).is_some());
    lock(&upstreams.0.state).change(resolv(&[two.address]));
    assert_eq!(upstreams.known(&question("example.com.", 512)), None);
    ask(&upstreams, "example.com.").await.unwrap();
    assert_eq!((one.asked(), two.asked()), (1, 1));
}

#[test]
fn the_cache_is_bounded_and_forgets() {
    let mut cache = Cache::default();
    let (start, mut keys) = (Instant::now(), Vec::new());
    for n in 0..20_000 {
        let question = question(&format!("n{n}.example.com."), 512);
        let mut reply = Message::new(1, MessageType::Query, OpCode::Query);
        reply.add_query(Query::query(
            Name::from_ascii(format!("n{n}.example.com.")).unwrap(),
            RecordType::A,
        ));
        let reply = Reply::new(good(reply, 20).to_vec().unwrap(), false).unwrap();
        cache.put(question.key.clone(), Arc::new(reply), start);
        keys.push(question.key);
    }
    let kept = keys.iter().filter(|k| cache.get(k, start).is_some()).count();
    assert!((100..=8192).contains(&kept), "{kept}");
    let last = keys.last().unwrap();
    assert!(cache.get(last, start + Duration::from_secs(59)).is_some());
    assert!(cache.get(last, start + Duration::from_secs(60)).is_none());
    assert!(cache.get(&keys[0], start).is_none(), "the oldest went first");
}
