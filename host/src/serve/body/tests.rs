use super::*;

const KIB: usize = 1024;

fn reader(body_kib: usize, bodies_kib: usize) -> BodyReader {
    BodyReader::new(ServeLimits {
        body_max_bytes: body_kib * KIB,
        bodies_max_bytes: bodies_kib * KIB,
        ..ServeLimits::default()
    })
}

fn announced(length_kib: usize) -> Body {
    Body::from(vec![b' '; length_kib * KIB])
}

/// In pieces of 16 KiB, without saying how many.
fn unannounced(length_kib: usize) -> Body {
    let piece = || Ok::<_, std::io::Error>(vec![b' '; 16 * KIB]);
    Body::from_stream(tokio_stream::iter((0..length_kib / 16).map(move |_| piece())))
}

#[tokio::test]
async fn bodies_under_way_share_the_memory_until_they_are_dropped() {
    for body in [announced, unannounced] {
        let reader = reader(400, 1_000);
        let first = reader.read(body(400)).await.unwrap();
        let second = reader.read(body(400)).await.unwrap();
        assert_eq!(first.bytes().len() + second.bytes().len(), 800 * KIB);
        let refused = reader.read(body(400)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert_eq!(
            refused.message(),
            "the bodies under way take all of the 1024000 bytes there are for them: try again"
        );
        assert_eq!(reader.free_units.available_permits(), 200, "what was refused holds nothing");
        reader.read(body(192)).await.unwrap();
        drop(first);
        reader.read(body(400)).await.unwrap();
    }
}

/// Announces much, and never sends it.
struct Stalled(u64);

impl axum::body::HttpBody for Stalled {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0)
    }
}

#[tokio::test]
async fn who_announces_much_and_sends_nothing_takes_no_room() {
    let reader = reader(400, 1_000);
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let mut body = Box::pin(reader.read(Body::new(Stalled(400 * KIB as u64))));
        assert!(futures_util::poll!(&mut body).is_pending());
        stalled.push(body);
    }
    reader.read(announced(400)).await.unwrap();
    let refused = reader.read(Body::new(Stalled(401 * KIB as u64))).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::BodyTooLarge);
}

#[tokio::test]
async fn packed_bodies_take_the_room_of_what_they_hold() {
    let reader = reader(400, 1_000);
    let unpack = async |length_kib: usize| {
        let packed = ContentEncoding::Gzip.pack(vec![b' '; length_kib * KIB]).unwrap();
        reader.unpack(packed.into(), ContentEncoding::Gzip).await
    };
    let mut small = Vec::new();
    for _ in 0..10 {
        small.push(unpack(60).await.unwrap());
    }
    assert_eq!(reader.free_units.available_permits(), 1_000);
    let large = [unpack(400).await.unwrap(), unpack(400).await.unwrap()];
    assert_eq!(reader.free_units.available_permits(), 200);
    assert_eq!(unpack(400).await.unwrap_err().code(), ErrorCode::Overloaded);
    assert_eq!(reader.free_units.available_permits(), 200, "what was refused holds nothing");
    drop(large);
    assert_eq!(unpack(401).await.unwrap_err().code(), ErrorCode::BodyTooLarge);
    assert_eq!(reader.free_units.available_permits(), 1_000);
}

#[test]
fn a_body_that_is_not_unpacked_in_time_is_let_go() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().max_blocking_threads(1).build().unwrap().block_on(async {
        let mut reader = reader(400, 1_000);
        reader.limits.body_max_ms = 0;
        let packed = ContentEncoding::Gzip.pack(vec![b' '; 400 * KIB]).unwrap();
        // The only thread that could do it has other work.
        let (go_on, waits) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || waits.recv());
        let late = reader.unpack(packed.into(), ContentEncoding::Gzip).await.unwrap_err();
        assert_eq!(late.message(), "the body was not unpacked within 0 ms");
        drop(go_on);
        assert!(busy.await.unwrap().is_err());
        while reader.free_units.available_permits() < 1_000 {
            tokio::task::yield_now().await;
        }
    });
}

#[tokio::test]
async fn small_bodies_are_not_counted() {
    let reader = reader(400, 400);
    let _all = reader.read(announced(400)).await.unwrap();
    assert_eq!(reader.free_units.available_permits(), 0);
    reader.read(announced(64)).await.unwrap();
    reader.read(unannounced(64)).await.unwrap();
    assert_eq!(reader.read(unannounced(80)).await.unwrap_err().code(), ErrorCode::Overloaded);
}

#[tokio::test]
async fn a_body_that_is_alone_always_finds_room() {
    let reader = reader(400, 100);
    reader.read(announced(400)).await.unwrap();
    reader.read(unannounced(400)).await.unwrap();
}

#[tokio::test]
async fn refuses_bodies_over_the_limit_of_one() {
    let reader = reader(32, 1_000);
    for body in [announced(33), unannounced(48)] {
        let refused = reader.read(body).await.unwrap_err();
        assert_eq!(refused.message(), "the body is larger than the limit of 32768 bytes");
    }
}

#[test]
fn lines_of_what_is_accepted_are_one_list() {
    let accepted = |lines: &[&str]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT_ENCODING, line.parse().unwrap());
        }
        accepted_by(&headers)
    };
    assert_eq!(accepted(&[]), ContentEncoding::Identity);
    assert_eq!(accepted(&["gzip"]), ContentEncoding::Gzip);
    assert_eq!(accepted(&["br", "identity;q=0.1", "gzip"]), ContentEncoding::Gzip);
}

#[tokio::test]
async fn answers_are_counted_until_they_are_taken() {
    let reader = reader(400, 200);
    let free = || reader.free_answer_units.available_permits();
    let hold = |bytes| reader.hold(bytes, Share::default());
    let pack = |bytes, accepted| packed(&reader, bytes, Share::default(), accepted);
    let small = hold(vec![1; UNCOUNTED_MAX_BYTES]).unwrap();
    assert_eq!((small.len(), free()), (UNCOUNTED_MAX_BYTES, 200));
    let response = pack(vec![b'7'; 150 * KIB], ContentEncoding::Identity).await.unwrap();
    assert_eq!((response.headers()["vary"].as_bytes(), free()), (&b"accept-encoding"[..], 50));
    let refused = pack(vec![b'7'; 100 * KIB], ContentEncoding::Identity).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Overloaded);
    assert!(reader.read(announced(200)).await.is_ok(), "requests have memory of their own");
    let refused = pack(vec![b'7'; 100 * KIB], ContentEncoding::Gzip).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Overloaded, "it is as large as it was while it is packed");
    let mut bytes = response.into_body().collect().await.unwrap().to_bytes();
    let last = bytes.split_off(bytes.len() - 1);
    drop(bytes);
    assert_eq!(free(), 50, "a part of it is not sent");
    assert_eq!(*last, *b"7");
    drop(last);
    assert_eq!(free(), 200);
    let response = pack(vec![b'7'; 150 * KIB], ContentEncoding::Gzip).await.unwrap();
    assert_eq!(
        (response.headers()["content-encoding"].as_bytes(), free()),
        (&b"gzip"[..], 200),
        "and small from then on"
    );
    let alone = hold(vec![1; 300 * KIB]).unwrap();
    assert_eq!((alone.len(), free()), (300 * KIB, 0));
}

#[tokio::test]
async fn room_for_an_answer_is_taken_before_it_is_written() {
    let reader = reader(400, 200);
    let free = || reader.free_answer_units.available_permits();
    let room = reader.room_for_answer(150 * KIB).unwrap();
    assert_eq!(free(), 50);
    assert_eq!(
        reader.room_for_answer(100 * KIB).err().map(|error| error.code()),
        Some(ErrorCode::Overloaded)
    );
    let held = reader.hold(vec![1; 100 * KIB], room).unwrap();
    assert_eq!(free(), 100, "it has become less than it might have");
    drop(held);
    let room = reader.room_for_answer(1_000 * KIB).unwrap();
    assert_eq!(free(), 0, "alone it finds room");
    drop(reader.hold(vec![1; UNCOUNTED_MAX_BYTES], room).unwrap());
    assert_eq!(free(), 200);
    let refused = reader.room_for_answer(ANSWER_MAX_BYTES + 1).unwrap_err();
    assert_eq!((refused.status().as_u16(), refused.code()), (413, ErrorCode::AnswerTooLarge));
}
