//! Why ringside refused, gave up or answered by itself: one enum of causes, one table of what
//! follows from each.
//!
//! A [`Cause`] is what an operator greps for. Its name stands in the response header
//! `x-ringside-cause`, in the access log, in metrics and in traces; the HTTP status, the gRPC
//! status, who is to blame and the next step all come from the single row that defines it, so
//! that no two places can disagree. Three causes carry a finer detail: [`Malformed`] says what was
//! wrong with a message, [`Lack`] why a service has no endpoint, [`Shortage`] what we ran out of.
//!
//! This module decides nothing. Who meets a failure picks the cause; who answers reads the row.

/// Who has to act for this not to happen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The one who connected to us.
    Downstream,
    /// The one we connected to.
    Upstream,
    /// The config did what it says.
    Policy,
    /// This process or its machine.
    Local,
}

impl Blame {
    pub fn name(self) -> &'static str {
        match self {
            Blame::Downstream => "downstream",
            Blame::Upstream => "upstream",
            Blame::Policy => "policy",
            Blame::Local => "local",
        }
    }
}

/// The gRPC status codes that ringside itself answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Grpc {
    Cancelled = 1,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Grpc {
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What follows from a cause.
struct Row {
    index: u8,
    name: &'static str,
    status: u16,
    blame: Blame,
    grpc: Option<Grpc>,
    hint: &'static str,
}

/// From one table: the enum, the list of all causes, and the total match from cause to row.
/// A payload is written with a sample, which stands for the variant in [`Cause::ALL`].
macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident $(($payload:ty = $sample:expr))? =>
       $name:literal $status:literal $blame:ident $grpc:expr, $hint:literal;)*) => {
        /// Why an exchange or a connection did not go its normal way.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant $(($payload))?,)* }

        #[repr(u8)]
        enum Index { $($variant,)* }

        impl Cause {
            /// Every cause once, in the order of INTERFACE.md; `ALL[i].index() == i`.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant $(($sample))?,)*];

            fn row(self) -> Row {
                match self {
                    $(Cause::$variant { .. } => Row {
                        index: Index::$variant as u8,
                        name: $name,
                        status: $status,
                        blame: Blame::$blame,
                        grpc: $grpc,
                        hint: $hint,
                    },)*
                }
            }
        }
    };
}

use Grpc::*;

causes! {
    // Routing.
    NoRoute => "no_route" 404 Policy Some(Unimplemented),
        "no route matches this host, path and method; compare them with the listener's `routes`";
    DestinationRefused => "destination_refused" 502 Policy Some(Unavailable),
        "the original destination belongs to no service and `intercept.unmatched` is `refuse`";
    LoopDetected => "loop_detected" 508 Policy Some(Internal),
        "the request came back to this proxy; a route or service leads to our own listener";

    // The request itself.
    BadRequest(Malformed = Malformed::BadRequestLine) => "bad_request" 400 Downstream Some(Internal),
        "the request is not well-formed HTTP/1.1; correct the client";
    UriTooLong => "uri_too_long" 414 Downstream Some(ResourceExhausted),
        "the request target is longer than `limits.target_size`";
    HeadersTooLarge => "headers_too_large" 431 Downstream Some(ResourceExhausted),
        "the request head exceeds `limits.header_size` or `limits.header_count`";
    BodyTooLarge => "body_too_large" 413 Downstream Some(ResourceExhausted),
        "the request body exceeds `limits.body_size`";
    ExpectationFailed => "expectation_failed" 417 Downstream None,
        "only `Expect: 100-continue` is understood";
    Misdirected => "misdirected" 421 Downstream None,
        "this connection's certificate does not cover the request's host; open a new connection";
    UnsupportedCoding => "unsupported_coding" 501 Downstream None,
        "the only transfer coding understood is `chunked`";
    UnsupportedVersion => "unsupported_version" 505 Downstream None,
        "this listener speaks HTTP/1.1 and HTTP/1.0 here";
    PlaintextOnTls => "plaintext_on_tls" 400 Downstream None,
        "this is a TLS port; use https";
    HeaderTimeout => "header_timeout" 408 Downstream None,
        "the request head was not complete within `timeouts.head`";
    BodyTimeout => "body_timeout" 408 Downstream Some(DeadlineExceeded),
        "no byte of the request body came within `timeouts.body_idle`";

    // Policy.
    NotAuthorized => "not_authorized" 403 Policy Some(PermissionDenied),
        "an authorization rule denies this; compare the request with `authorization`";
    ConnectNotAllowed => "connect_not_allowed" 403 Policy Some(PermissionDenied),
        "no route names `methods: [CONNECT]` for this host";
    NoCredentials => "no_credentials" 401 Downstream Some(Unauthenticated),
        "send a bearer token of one of the route's issuers";
    BadCredentials => "bad_credentials" 401 Downstream Some(Unauthenticated),
        "the token is expired, malformed or not of the route's issuers";
    RateLimited => "rate_limited" 429 Policy Some(ResourceExhausted),
        "wait as long as `retry-after` says, or raise the limit";

    // Capacity.
    NoEndpoint(Lack = Lack::Empty) => "no_endpoint" 503 Policy Some(Unavailable),
        "the service has no endpoint; give it some under `endpoints`";
    NoHealthyEndpoint => "no_healthy_endpoint" 503 Upstream Some(Unavailable),
        "every endpoint is taken out; `ringside endpoints` says which, and puts one back";
    CircuitOpen => "circuit_open" 503 Policy Some(Unavailable),
        "the service's `circuit` is full; raise it or add replicas";
    QueueTimeout => "queue_timeout" 503 Policy Some(Unavailable),
        "no upstream connection became free within `circuit.pending_timeout`";
    Overloaded(Shortage = Shortage::Memory) => "overloaded" 503 Local Some(Unavailable),
        "this proxy has no room for more; retry later";
    Draining => "draining" 503 Local Some(Unavailable),
        "this proxy is shutting down; retry on another connection";

    // The upstream.
    ConnectFailed => "connect_failed" 503 Upstream Some(Unavailable),
        "the endpoint refused the connection; is it running and listening there?";
    ConnectTimeout => "connect_timeout" 503 Upstream Some(Unavailable),
        "the endpoint did not accept within `connect_timeout`; check the network path to it";
    UpstreamTlsFailed => "upstream_tls_failed" 503 Upstream Some(Unavailable),
        "the TLS handshake with the endpoint failed; compare its certificate with the service's `tls`";
    UpstreamReset => "upstream_reset" 502 Upstream Some(Unavailable),
        "the endpoint reset the connection before it answered; look at its log";
    UpstreamClosed => "upstream_closed" 502 Upstream Some(Unavailable),
        "the endpoint closed the connection before it answered; look at its log";
    UpstreamBadResponse(Malformed = Malformed::NotHttp) => "upstream_bad_response" 502 Upstream Some(Unavailable),
        "the endpoint's response is not well-formed HTTP/1.1; is it an HTTP server?";
    ResponseTimeout => "response_timeout" 504 Upstream Some(DeadlineExceeded),
        "no response head within `timeouts.response`";
    TotalTimeout => "total_timeout" 504 Upstream Some(DeadlineExceeded),
        "the exchange was not complete within `timeouts.total`";
    TryTimeout => "try_timeout" 504 Upstream Some(DeadlineExceeded),
        "no try was answered within `timeouts.per_try`";
    DeadlineExceeded => "deadline_exceeded" 504 Downstream Some(Grpc::DeadlineExceeded),
        "the deadline that the caller set has passed";

    // Made by us.
    /// The status is the configured one.
    FaultInjected(u16 = 503) => "fault_injected" 503 Policy Some(Unavailable),
        "the route's `fault.abort` did this on purpose";
    InternalError => "internal_error" 500 Local Some(Internal),
        "this is a bug in ringside; please report it with the log lines around it";

    // Log and metrics only: the client never reads an answer.
    ClientGone => "client_gone" 499 Downstream Some(Cancelled),
        "the client left before the answer was complete";
    UpstreamTruncated => "upstream_truncated" 502 Upstream Some(Unavailable),
        "the endpoint ended its response early; look at its log";
    StreamIdleTimeout => "stream_idle_timeout" 504 Upstream Some(Unavailable),
        "no byte went either way within `timeouts.stream_idle`";

    // Connections (log and metric); status 0: there is no exchange to answer.
    TlsHandshakeFailed => "tls_handshake_failed" 0 Downstream None,
        "the client's TLS handshake failed; compare versions, suites and names";
    ClientCertificateRefused => "client_certificate_refused" 0 Downstream None,
        "the client's certificate is missing or not trusted here";
    CertificateExpired => "certificate_expired" 0 Local None,
        "our certificate has expired; renew it";
    ProxyProtocolBad => "proxy_protocol_bad" 0 Downstream None,
        "the peer should have sent a PROXY header and sent none, or a bad one";
    ConnectionLimit => "connection_limit" 0 Policy None,
        "a connection limit of the listener or process is reached";
    Http2Flood => "http2_flood" 0 Downstream None,
        "the client sent more HTTP/2 control work than any honest one does";
    Http2ProtocolError => "http2_protocol_error" 0 Downstream None,
        "the client broke the HTTP/2 protocol";
    KeepAliveTimeout => "keep_alive_timeout" 0 Policy None,
        "no further request within `timeouts.keep_alive`";
    WriteTimeout => "write_timeout" 0 Downstream None,
        "the client did not read within `timeouts.write`";
    ListenerRemoved => "listener_removed" 0 Policy None,
        "the listener is no longer in the config";
    TcpNotAuthorized => "tcp_not_authorized" 0 Policy None,
        "an authorization rule denies this connection";
}

impl Cause {
    /// The name in headers, logs, metrics and traces.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The HTTP status of the answer; 0 where a connection failed and there is none.
    pub fn status(self) -> u16 {
        match self {
            Cause::FaultInjected(status) => status,
            _ => self.row().status,
        }
    }

    /// The status of the answer to a gRPC request, where INTERFACE.md gives it one.
    pub fn grpc(self) -> Option<Grpc> {
        self.row().grpc
    }

    /// Who has to act.
    pub fn blame(self) -> Blame {
        self.row().blame
    }

    /// The next step, in one line of words.
    pub fn hint(self) -> &'static str {
        match self {
            Cause::BadRequest(detail) => detail.hint(),
            Cause::NoEndpoint(lack) => lack.hint(),
            Cause::Overloaded(shortage) => shortage.hint(),
            _ => self.row().hint,
        }
    }

    /// The finer reason, where a cause has one.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Cause::BadRequest(malformed) | Cause::UpstreamBadResponse(malformed) => {
                Some(malformed.name())
            }
            Cause::NoEndpoint(Lack::Empty) => None,
            Cause::NoEndpoint(lack) => Some(lack.name()),
            Cause::Overloaded(shortage) => Some(shortage.name()),
            _ => None,
        }
    }

    /// A dense number for tables of counters: `0 <= index < Cause::ALL.len()`. Details share it.
    pub fn index(self) -> usize {
        usize::from(self.row().index)
    }
}

/// Why a service has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lack {
    /// The config lists none.
    Empty,
    NeverPushed,
    DnsFailed,
    NoSuchSubset,
}

impl Lack {
    pub fn name(self) -> &'static str {
        match self {
            Lack::Empty => "empty",
            Lack::NeverPushed => "never_pushed",
            Lack::DnsFailed => "dns_failed",
            Lack::NoSuchSubset => "no_such_subset",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Lack::Empty => "the service has no endpoint; give it some under `endpoints`",
            Lack::NeverPushed => "nobody has pushed endpoints: PUT /v1/services/NAME/endpoints",
            Lack::DnsFailed => "the service's DNS name does not resolve; check it with `dig`",
            Lack::NoSuchSubset => "no endpoint has the labels that the route's backend names",
        }
    }
}

/// What this process ran out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shortage {
    Memory,
    Descriptors,
    Ports,
}

impl Shortage {
    pub fn name(self) -> &'static str {
        match self {
            Shortage::Memory => "memory",
            Shortage::Descriptors => "descriptors",
            Shortage::Ports => "ports",
        }
    }

    /// The next step, in one line of words.
    pub fn hint(self) -> &'static str {
        match self {
            Shortage::Memory => {
                "this proxy's buffers are at `limits.memory`; retry later or raise it"
            }
            Shortage::Descriptors => {
                "this proxy is out of file descriptors; raise its limit (ulimit -n) or lower `limits.connections`"
            }
            Shortage::Ports => {
                "this proxy is out of local ports to the endpoint; raise net.ipv4.ip_local_port_range or add endpoints"
            }
        }
    }
}

/// What exactly is wrong with a message; the detail of `bad_request` and `upstream_bad_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    // The first line.
    BadRequestLine,
    BadMethod,
    BadTarget,
    BadVersion,
    BadStatusLine,
    TlsClientHello,
    NotHttp,
    // Lines and fields.
    BareLineFeed,
    BareCarriageReturn,
    ObsFold,
    NoColon,
    BadHeaderName,
    BadHeaderValue,
    // Host.
    MissingHost,
    SeveralHosts,
    BadHost,
    // Framing.
    BadLength,
    ConflictingLength,
    BadTransferCoding,
    BodyNotAllowed,
    BadChunk,
    BadChunkExtension,
    BadTrailer,
    // Upstream only.
    HeadTooLarge,
    UnexpectedUpgrade,
    TooManyInterim,
    Surplus,
}

impl Malformed {
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// The next step, in one line of words.
    pub fn hint(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        use Malformed::*;
        match self {
            BadRequestLine => (
                "bad_request_line",
                "the first line must be METHOD SP TARGET SP VERSION, with single spaces",
            ),
            BadMethod => ("bad_method", "the method must be a token of at most 32 characters"),
            BadTarget => (
                "bad_target",
                "the target must be /path, http://host/path, * (OPTIONS) or host:port (CONNECT), without spaces, controls or #",
            ),
            BadVersion => ("bad_version", "the first line must end in HTTP/1.1 or HTTP/1.0"),
            BadStatusLine => {
                ("bad_status_line", "the first line must be HTTP/1.1 SP CODE SP REASON")
            }
            TlsClientHello => ("tls_client_hello", "this is not a TLS port; use http"),
            NotHttp => ("not_http", "these bytes are not HTTP/1"),
            BareLineFeed => ("bare_line_feed", "lines must end in CR LF"),
            BareCarriageReturn => ("bare_carriage_return", "a CR must be followed by LF"),
            ObsFold => ("obs_fold", "a field must stand on one line"),
            NoColon => ("no_colon", "a field line must be NAME: VALUE"),
            BadHeaderName => {
                ("bad_header_name", "a field name must be a token, directly followed by a colon")
            }
            BadHeaderValue => ("bad_header_value", "a field value may not hold control characters"),
            MissingHost => ("missing_host", "the request needs a Host field"),
            SeveralHosts => ("several_hosts", "send exactly one Host field"),
            BadHost => ("bad_host", "Host must be a name or address with an optional port"),
            BadLength => ("bad_length", "Content-Length must be one decimal number"),
            ConflictingLength => (
                "conflicting_length",
                "send one Content-Length, or Transfer-Encoding: chunked, never both",
            ),
            BadTransferCoding => (
                "bad_transfer_coding",
                "Transfer-Encoding must be exactly `chunked`, in HTTP/1.1, once",
            ),
            BodyNotAllowed => ("body_not_allowed", "CONNECT has no body"),
            BadChunk => {
                ("bad_chunk", "a chunk must be SIZE CR LF DATA CR LF with a hexadecimal size")
            }
            BadChunkExtension => (
                "bad_chunk_extension",
                "chunk extensions must be ;name=value, 1 KiB a chunk at most",
            ),
            BadTrailer => (
                "bad_trailer",
                "trailers must be well-formed fields, 8 KiB at most, without framing or routing",
            ),
            HeadTooLarge => ("head_too_large", "the response head exceeds the limits"),
            UnexpectedUpgrade => (
                "unexpected_upgrade",
                "a 101 answers only an upgrade that was asked for, naming its protocol",
            ),
            TooManyInterim => ("too_many_interim", "too many 1xx responses before the final one"),
            Surplus => ("surplus", "bytes came that belong to no response"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_place_in_all() {
        for (place, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(cause.index(), place);
        }
    }

    #[test]
    fn names_are_distinct_words() {
        let mut names: Vec<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert!(
            names.iter().all(|n| n
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Cause::ALL.len());
    }

    #[test]
    fn hints_fit_one_line() {
        for cause in Cause::ALL {
            assert!(!cause.hint().is_empty() && cause.hint().is_ascii());
            assert!(!cause.hint().contains(['\r', '\n']));
        }
    }

    /// A next step that cannot be taken is none.
    #[test]
    fn hints_name_only_commands_that_are_there() {
        let lacks = [Lack::Empty, Lack::NeverPushed, Lack::DnsFailed, Lack::NoSuchSubset];
        let causes = Cause::ALL.iter().copied().chain(lacks.map(Cause::NoEndpoint));
        for hint in causes.map(Cause::hint) {
            let commands = hint.split("`ringside ").skip(1);
            for command in commands.filter_map(|rest| rest.split([' ', '`']).next()) {
                assert!(["run", "check", "demo", "endpoints"].contains(&command), "{hint}");
            }
        }
    }

    #[test]
    fn a_detail_does_not_change_the_name() {
        let cause = Cause::BadRequest(Malformed::ConflictingLength);
        assert_eq!((cause.name(), cause.status()), ("bad_request", 400));
        assert_eq!(cause.detail(), Some("conflicting_length"));
        assert_eq!(cause.index(), Cause::BadRequest(Malformed::BadHost).index());
        assert_eq!(Cause::FaultInjected(418).status(), 418);
    }

    #[test]
    fn small_enough_to_pass_by_value() {
        assert!(size_of::<Cause>() <= 4);
    }
}
