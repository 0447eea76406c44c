//! Any bytes at all, read as a chunked body.

#[path = "http1/fuzz.rs"]
mod fuzz;
#[path = "http1/peer.rs"]
mod peer;

/// No panic; the same verdict however the bytes are cut; what passes is well-formed for an
/// independent decoder, and a broken body never passes with an end (checked by the peer).
fn check(bytes: &[u8]) {
    fuzz::same_for_all_cuts(bytes, peer::chunked);
}

#[test]
fn fuzz_chunked() {
    const PARTS: &[&str] = &[
        "0",
        "1",
        "3",
        "a",
        "F",
        "10",
        "\r\n",
        "\r",
        "\n",
        " ",
        "\t",
        ";",
        "=",
        "\"",
        "\\",
        "\0",
        "3\r\nabc\r\n",
        "1\r\nx\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "abc",
        ";a=b",
        ";c=\"d;e\"",
        "3;a\r\n",
        "X: y\r\n",
        "Content-Length: 1\r\n",
        "TE: z\r\n",
        ": ",
        "0000000000000000",
        "ffffffff",
        "g",
        "\r\n\r\n",
    ];
    bolero::check!(name = "fuzz_chunked").for_each(|input: &[u8]| {
        check(input);
        check(&fuzz::assemble(input, PARTS));
    });
}
