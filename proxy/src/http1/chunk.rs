//! The chunked coding (RFC 9112 §7.1), checked and passed on.
//!
//! The framing of the common case, a size line without extension that lies whole in the input,
//! passes on as the bytes that came. Everything else is held in a small buffer and made anew.

use smallvec::SmallVec;

use super::body::{Emit, Step};
use super::fields::{Kind, split_field, strip_line_end};
use super::syntax::{is_token_byte, is_value, trim_ows};
use crate::error::Malformed;

/// Sixteen hexadecimal digits hold every size there is.
const SIZE_DIGITS_MAX: usize = 16;

/// Bytes of one chunk's extensions.
const EXTENSION_SIZE_MAX: usize = 1 << 10;

/// Bytes of all extensions of a body: small chunks with long extensions make the receiver work
/// for nothing (CVE-2023-39326).
const EXTENSION_TOTAL_MAX: usize = 16 << 10;

/// Bytes of the trailer section.
const TRAILER_SIZE_MAX: usize = 8 << 10;

/// The longest size line: digits, extensions, CR LF.
const LINE_SIZE_MAX: usize = SIZE_DIGITS_MAX + EXTENSION_SIZE_MAX + 2;

const LAST_CHUNK: &[u8] = b"0\r\n";

/// A chunked body being read.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// What was held back: the start of a line whose end has not come, the trailer section so
    /// far, or, with `has_lead`, what goes on before the bytes of this step.
    held: SmallVec<[u8; 32]>,
    has_lead: bool,
    extension_total: usize,
    /// Bytes of the trailer section, dropped fields included.
    trailer_total: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In a size line.
    #[default]
    Size,
    /// In the data of a chunk, of which so much is to come; above 0.
    Data(u64),
    /// Before the CR, or the LF, after the data.
    DataCr,
    DataLf,
    /// After the last chunk; `held` begins with it, and the current line begins at this offset.
    Trailer(usize),
    Done,
    Failed(Malformed),
}

impl Chunked {
    pub(super) fn lead(&self) -> &[u8] {
        if self.has_lead { &self.held } else { &[] }
    }

    pub(super) fn trailers(&self) -> &[u8] {
        let held: &[u8] = if self.is_done() { &self.held } else { &[] };
        let lines = held.strip_prefix(LAST_CHUNK).and_then(|rest| rest.strip_suffix(b"\r\n"));
        lines.unwrap_or_default()
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn advance(&mut self, input: &[u8], emit: Emit) -> Result<Step, Malformed> {
        if self.has_lead {
            self.has_lead = false;
            self.held.clear();
        }
        let mut reading = Reading { chunked: self, input, emit, at: 0, pass: 0..0, content: 0 };
        match reading.run() {
            Ok(()) => {
                let Reading { at: consumed, pass, content, .. } = reading;
                Ok(Step { consumed, pass, content, done: self.is_done() })
            }
            Err(malformed) => {
                self.state = State::Failed(malformed);
                Err(malformed)
            }
        }
    }
}

/// One call of `advance`.
struct Reading<'a> {
    chunked: &'a mut Chunked,
    input: &'a [u8],
    emit: Emit,
    /// `pass.end <= at <= input.len()`
    at: usize,
    pass: std::ops::Range<usize>,
    content: usize,
}

/// Whether the step goes on.
enum Flow {
    More,
    Stop,
}

impl Reading<'_> {
    fn run(&mut self) -> Result<(), Malformed> {
        while self.at < self.input.len() {
            let flow = match self.chunked.state {
                State::Size => self.size_line()?,
                State::Data(left) => self.data(left),
                State::DataCr => self.data_end(b'\r', State::DataLf)?,
                State::DataLf => self.data_end(b'\n', State::Size)?,
                State::Trailer(line) => self.trailer_line(line)?,
                State::Done => Flow::Stop,
                State::Failed(malformed) => return Err(malformed),
            };
            if let Flow::Stop = flow {
                break;
            }
        }
        Ok(())
    }

    /// Takes `len` bytes that go on as they are; false if they do not join what passes already.
    fn take(&mut self, len: usize) -> bool {
        if self.pass.is_empty() {
            self.pass = self.at..self.at;
        } else if self.pass.end != self.at {
            return false;
        }
        self.at += len;
        self.pass.end = self.at;
        true
    }

    /// Takes `len` bytes of framing, which only [`Emit::Wire`] passes on.
    fn take_framing(&mut self, len: usize) -> bool {
        match self.emit {
            Emit::Wire => self.take(len),
            Emit::Content => {
                self.at += len;
                true
            }
        }
    }

    fn data(&mut self, left: u64) -> Flow {
        let rest = self.input.len() - self.at;
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
        if !self.take(len) {
            return Flow::Stop;
        }
        self.content += len;
        let left = left - len as u64;
        self.chunked.state = if left == 0 { State::DataCr } else { State::Data(left) };
        Flow::More
    }

    fn data_end(&mut self, expect: u8, then: State) -> Result<Flow, Malformed> {
        // RFC 9112 §7.1: exactly CR LF after exactly the announced bytes.
        if self.input[self.at] != expect {
            return Err(Malformed::BadChunk);
        }
        if !self.take_framing(1) {
            return Ok(Flow::Stop);
        }
        self.chunked.state = then;
        Ok(Flow::More)
    }

    fn size_line(&mut self) -> Result<Flow, Malformed> {
        if self.chunked.has_lead {
            // The buffer is in use until the caller has sent it.
            return Ok(Flow::Stop);
        }
        let rest = &self.input[self.at..];
        let line_len = memchr::memchr(b'\n', &rest[..rest.len().min(LINE_SIZE_MAX)]).map(|i| i + 1);
        let held_len = self.chunked.held.len();
        if let (Some(len), 0) = (line_len, held_len) {
            return self.whole_size_line(len);
        }
        // The line is cut: what has come of it is kept, and judged as far as it goes.
        let len = line_len.unwrap_or(rest.len());
        if held_len + len > LINE_SIZE_MAX {
            return Err(refuse_long_line(&self.chunked.held, rest));
        }
        if line_len.is_some() && !self.pass.is_empty() {
            return Ok(Flow::Stop);
        }
        self.chunked.held.extend_from_slice(&rest[..len]);
        self.at += len;
        if line_len.is_none() {
            size_digits(&self.chunked.held)?;
            return Ok(Flow::More);
        }
        let (size, extension_len) = parse_size_line(&self.chunked.held)?;
        self.begin_chunk(size, extension_len)?;
        Ok(Flow::More)
    }

    /// A size line that lies whole in the input.
    fn whole_size_line(&mut self, len: usize) -> Result<Flow, Malformed> {
        let rest = &self.input[self.at..];
        let (size, extension_len) = parse_size_line(&rest[..len])?;
        if size > 0 && extension_len == 0 {
            if !self.take_framing(len) {
                return Ok(Flow::Stop);
            }
            self.chunked.state = State::Data(size);
            return Ok(Flow::More);
        }
        if size == 0 && extension_len == 0 && rest[len..].starts_with(b"\r\n") {
            if !self.take_framing(len + 2) {
                return Ok(Flow::Stop);
            }
            self.chunked.state = State::Done;
            return Ok(Flow::Stop);
        }
        if !self.pass.is_empty() {
            return Ok(Flow::Stop);
        }
        self.at += len;
        self.begin_chunk(size, extension_len)?;
        Ok(Flow::More)
    }

    /// Begins a chunk whose size line does not go on as it came but is made anew.
    fn begin_chunk(&mut self, size: u64, extension_len: usize) -> Result<(), Malformed> {
        let chunked = &mut *self.chunked;
        chunked.extension_total += extension_len;
        if chunked.extension_total > EXTENSION_TOTAL_MAX {
            return Err(Malformed::BadChunkExtension);
        }
        chunked.held.clear();
        if size == 0 {
            chunked.held.extend_from_slice(LAST_CHUNK);
            chunked.state = State::Trailer(LAST_CHUNK.len());
        } else {
            write_size_line(&mut chunked.held, size);
            chunked.has_lead = true;
            chunked.state = State::Data(size);
        }
        Ok(())
    }

    /// Reads a line of the trailer section, or what has come of it, into `held`.
    fn trailer_line(&mut self, line: usize) -> Result<Flow, Malformed> {
        if !self.pass.is_empty() {
            return Ok(Flow::Stop);
        }
        let rest = &self.input[self.at..];
        let end = memchr::memchr(b'\n', rest);
        let len = end.map_or(rest.len(), |place| place + 1);
        self.chunked.trailer_total += len;
        if self.chunked.trailer_total > TRAILER_SIZE_MAX {
            return Err(Malformed::BadTrailer);
        }
        let held = &mut self.chunked.held;
        held.extend_from_slice(&rest[..len]);
        self.at += len;
        if end.is_none() {
            return Ok(Flow::More);
        }
        let text = strip_line_end(&held[line..]).map_err(|_| Malformed::BadTrailer)?;
        if text.is_empty() {
            self.chunked.state = State::Done;
            self.chunked.has_lead = true;
            return Ok(Flow::Stop);
        }
        if !trailer_goes_on(text)? {
            held.truncate(line);
        }
        self.chunked.state = State::Trailer(held.len());
        Ok(Flow::More)
    }
}

/// Whether a trailer field goes on, is dropped, or is a reason to refuse the message.
fn trailer_goes_on(text: &[u8]) -> Result<bool, Malformed> {
    let (name, _) = split_field(text).map_err(|_| Malformed::BadTrailer)?;
    match Kind::of(name) {
        // RFC 9110 §6.5.1: framing and routing are not to be read from trailers. A next hop that
        // merges trailers into the head would.
        Kind::Host | Kind::ContentLength | Kind::TransferEncoding => Err(Malformed::BadTrailer),
        Kind::Other => Ok(true),
        // Nor what ends at this hop, or what we alone may say.
        _ => Ok(false),
    }
}

/// The size and the length of the extensions of a complete line.
fn parse_size_line(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits_len = size_digits(line)?;
    let text = strip_line_end(line).map_err(|_| Malformed::BadChunk)?;
    let (digits, extensions) = text.split_at(digits_len.min(text.len()));
    if digits.is_empty() {
        return Err(Malformed::BadChunk);
    }
    let mut size = 0u64;
    for &digit in digits {
        size = size << 4 | u64::from(hex_value(digit).unwrap_or_default());
    }
    // Beyond this a signed size is negative.
    if size > i64::MAX as u64 {
        return Err(Malformed::BadChunk);
    }
    match extensions.first() {
        None => Ok((size, 0)),
        Some(b';') if are_extensions(extensions) => Ok((size, extensions.len())),
        Some(b';') => Err(Malformed::BadChunkExtension),
        Some(_) => Err(Malformed::BadChunk),
    }
}

/// How many hexadecimal digits the line, or what has come of it, begins with. Refused before the
/// line is complete: something else at its start, too many digits, something else after them.
fn size_digits(line: &[u8]) -> Result<usize, Malformed> {
    let digits = line.iter().take_while(|&&b| hex_value(b).is_some()).count();
    match line.get(digits) {
        _ if digits > SIZE_DIGITS_MAX => Err(Malformed::BadChunk),
        None => Ok(digits),
        Some(b'\r' | b';') if digits > 0 => Ok(digits),
        Some(_) => Err(Malformed::BadChunk),
    }
}

/// What is wrong with a size line of more than `LINE_SIZE_MAX` bytes.
fn refuse_long_line(held: &[u8], rest: &[u8]) -> Malformed {
    let mut line: SmallVec<[u8; 32]> = SmallVec::from_slice(held);
    line.extend_from_slice(&rest[..rest.len().min(SIZE_DIGITS_MAX + 2)]);
    size_digits(&line).err().unwrap_or(Malformed::BadChunkExtension)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 9112 §7.1.1: `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
fn are_extensions(mut text: &[u8]) -> bool {
    fn token(text: &[u8]) -> Option<&[u8]> {
        let len = text.iter().take_while(|&&b| is_token_byte(b)).count();
        (len > 0).then(|| trim_start(&text[len..]))
    }
    fn trim_start(text: &[u8]) -> &[u8] {
        let trimmed = text.iter().take_while(|&&b| b == b' ' || b == b'\t').count();
        &text[trimmed..]
    }
    // Bad white space may stand between the parts, not at the end.
    if text.len() != trim_ows(text).len() {
        return false;
    }
    while let [b';', rest @ ..] = text {
        let Some(after_name) = token(trim_start(rest)) else { return false };
        text = after_name;
        if let [b'=', rest @ ..] = text {
            let value = trim_start(rest);
            let after_value = match value {
                [b'"', quoted @ ..] => quoted_end(quoted).map(trim_start),
                _ => token(value),
            };
            let Some(after_value) = after_value else { return false };
            text = after_value;
        }
    }
    text.is_empty()
}

/// What follows a quoted string of which the opening quote is gone (RFC 9110 §5.6.4).
fn quoted_end(mut text: &[u8]) -> Option<&[u8]> {
    if !is_value(text) {
        return None;
    }
    loop {
        match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] => text = rest,
            [b'\\'] | [] => return None,
            [_, rest @ ..] => text = rest,
        }
    }
}

/// The size in hexadecimal, and CR LF.
fn write_size_line(out: &mut SmallVec<[u8; 32]>, size: u64) {
    let digits = (u64::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(size >> (4 * place) & 0xf) as usize]);
    }
    out.extend_from_slice(b"\r\n");
}
