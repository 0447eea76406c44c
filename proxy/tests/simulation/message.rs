//! Messages as the simulated hosts write and read them. A body follows from the request's id, so
//! that a byte of another exchange shows.

use reactor::Stream;

/// Which of the bodies of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up = 1,
    Down = 2,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framed {
    ByLength,
    InChunks,
    /// By the end of the connection.
    UntilClose,
}

/// Bits that follow from an id.
pub(crate) fn bits(id: &str, salt: u64) -> u64 {
    let mixed = id.bytes().fold(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15), |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
}

/// The body that belongs to a request: often small, sometimes larger than every buffer on the way.
pub(crate) fn body_of(id: &str, direction: Direction) -> Vec<u8> {
    let bits = bits(id, direction as u64);
    let most = match bits % 16 {
        0 | 1 => 1,
        2..8 => 200,
        8..14 => 6_000,
        _ => 100_000,
    };
    let len = (bits >> 8) as usize % most;
    format!("{direction:?}:{id};").bytes().cycle().take(len).collect()
}

/// A body as it goes over the wire, and the field that says so.
pub(crate) fn frame(body: &[u8], framed: Framed) -> (String, Vec<u8>) {
    match framed {
        Framed::ByLength => (format!("content-length: {}\r\n", body.len()), body.to_vec()),
        Framed::UntilClose => ("connection: close\r\n".to_owned(), body.to_vec()),
        Framed::InChunks => {
            let mut wire = Vec::new();
            for chunk in body.chunks(700) {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(format!("0\r\nx-sum: {}\r\n\r\n", body.len()).as_bytes());
            ("transfer-encoding: chunked\r\n".to_owned(), wire)
        }
    }
}

/// The value of a field.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads messages from a stream.
pub(crate) struct Reader<'a> {
    stream: &'a Stream,
    input: Vec<u8>,
    /// The stream has ended as it should.
    ended: bool,
}

impl Reader<'_> {
    pub(crate) fn new(stream: &Stream) -> Reader<'_> {
        Reader { stream, input: Vec::new(), ended: false }
    }

    /// Whether all that was received is read.
    pub(crate) fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// What was received and is not read: the beginning of a tunnel.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Receives more; false if no more comes.
    pub(crate) async fn fill(&mut self) -> bool {
        match self.stream.recv().await {
            Ok(Some(buf)) => {
                self.input.extend_from_slice(&buf);
                true
            }
            Ok(None) => {
                self.ended = true;
                false
            }
            Err(_) => false,
        }
    }

    async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end) {
                let taken: Vec<u8> = self.input.drain(..at + end.len()).collect();
                return Some(String::from_utf8(taken).expect("text"));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.input.len() < len {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.input.drain(..len).collect())
    }

    /// The next head; none if the stream ends before it does.
    pub(crate) async fn head(&mut self) -> Option<String> {
        self.until(b"\r\n\r\n").await
    }

    /// The body that a head announces; none if the stream ends, or fails, before it does.
    pub(crate) async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if let Some(length) = field(head, "content-length") {
            return self.exactly(length.parse().expect("a number")).await;
        }
        if field(head, "transfer-encoding").is_some() {
            return self.chunks().await;
        }
        if !head.starts_with("HTTP/") {
            return Some(Vec::new());
        }
        while self.fill().await {}
        self.ended.then(|| std::mem::take(&mut self.input))
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.until(b"\r\n").await?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            if size == 0 {
                let trailers = self.until(b"\r\n\r\n").await?;
                assert_eq!(trailers, format!("x-sum: {}\r\n\r\n", body.len()));
                return Some(body);
            }
            body.extend(self.exactly(size).await?);
            assert_eq!(self.exactly(2).await?, b"\r\n");
        }
    }
}
