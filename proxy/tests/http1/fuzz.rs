//! What the fuzz targets share.

/// Random bytes are hardly ever a message, so each also stands for a piece of one. High bytes
/// stand for themselves.
pub(crate) fn assemble(input: &[u8], parts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in input.iter().take(64) {
        match byte {
            0..240 => out.extend_from_slice(parts[usize::from(byte) % parts.len()].as_bytes()),
            240.. => out.push(byte),
        }
    }
    out
}

/// Runs `read` on `bytes` fed whole, byte by byte and cut in two at up to forty places.
pub(crate) fn same_for_all_cuts(bytes: &[u8], read: impl Fn(&[&[u8]]) -> Vec<String>) {
    let read = |pieces: &[&[u8]]| {
        let mut events = read(pieces);
        // A size line that was cut goes on in other digits of the same value.
        events.retain(|event| !event.starts_with("wire "));
        events
    };
    let whole = read(&[bytes]);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, read(&single), "byte by byte: {}", bytes.escape_ascii());
    let step = (bytes.len() / 40).max(1);
    for at in (0..bytes.len()).step_by(step) {
        let cut = [&bytes[..at], &bytes[at..]];
        assert_eq!(whole, read(&cut), "cut at {at}: {}", bytes.escape_ascii());
    }
}
