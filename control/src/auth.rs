//! Who may do what on admin: bearer tokens (RFC 6750), each with scopes and names.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use config::{Auth, Scope};
use subtle::ConstantTimeEq;

use crate::problem::Problem;

/// The file in the state directory of a token that was made.
const GENERATED: &str = "admin.token";

/// The tokens that admin takes.
pub(crate) enum Guard {
    /// It asks for none.
    Open,
    Tokens(Vec<Known>),
}

/// A token, and what it is good for.
pub(crate) struct Known {
    name: String,
    secret: Vec<u8>,
    scopes: Vec<Scope>,
    names: Vec<String>,
}

/// Who asks, as audit lines call them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(pub(crate) Option<String>);

impl Caller {
    /// ` by NAME`, where a token says who it is.
    pub(crate) fn by(&self) -> String {
        self.0.as_ref().map(|name| format!(" by {name}")).unwrap_or_default()
    }
}

impl Guard {
    /// Reads the tokens' files. Where a token is needed and none is configured, one is made in `state`,
    /// and its place is told.
    ///
    /// # Errors
    /// A file cannot be read or holds no token, or there is no place for one that is made.
    pub(crate) fn new(
        auth: &Auth,
        state: Option<&Path>,
        tell: impl FnOnce(&Path),
    ) -> io::Result<Guard> {
        let tokens = match auth {
            Auth::None => return Ok(Guard::Open),
            Auth::Token(tokens) => tokens,
        };
        if tokens.is_empty() {
            let state = state.ok_or_else(|| {
                io::Error::other(
                    "admin needs a token and there is no state_dir to make one in: give one with \
                     --state, or configure admin.tokens, or on loopback `admin: { auth: none }`",
                )
            })?;
            let path = state.join(GENERATED);
            let secret = generated(&path)?;
            tell(&path);
            let scopes = vec![Scope::Read, Scope::Endpoints, Scope::Config, Scope::Lifecycle];
            let name = "the generated token".to_owned();
            return Ok(Guard::Tokens(vec![Known { name, secret, scopes, names: Vec::new() }]));
        }
        let read = |token: &config::Token| {
            let path = token.token_file.display();
            let secret = fs::read(&token.token_file)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            let secret = config::token_in(&secret).map_err(|why| {
                io::Error::other(format!("the token {}, {path}: {why}", token.name.as_str()))
            })?;
            Ok(Known {
                name: token.name.to_string(),
                secret: secret.to_vec(),
                scopes: token.scopes.clone(),
                names: token.names.clone(),
            })
        };
        Ok(Guard::Tokens(tokens.iter().map(read).collect::<io::Result<_>>()?))
    }

    /// Whether this request may be made, and who makes it.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        let Guard::Tokens(tokens) = self else { return Ok(Caller::default()) };
        let Some(given) = bearer(headers) else {
            return Err(unauthorized("send authorization: Bearer TOKEN"));
        };
        // Every token is compared, and each in the same time.
        let found = tokens.iter().fold(None, |found, known| {
            if bool::from(known.secret.ct_eq(given)) { Some(known) } else { found }
        });
        let Some(known) = found else { return Err(unauthorized("this token is not known")) };
        let (scope, name) = wanted(method, path);
        if !known.scopes.contains(&scope) {
            let detail =
                format!("{} may not do this: it needs the scope {}", known.name, word(scope));
            return Err(Problem::new(StatusCode::FORBIDDEN, "scope", detail));
        }
        if scope != Scope::Read && !known.may_change(name) {
            let detail = format!("{} may change {} only", known.name, known.names.join(", "));
            return Err(Problem::new(StatusCode::FORBIDDEN, "scope", detail));
        }
        Ok(Caller(Some(known.name.clone())))
    }
}

impl Known {
    /// What has no one name concerns all.
    fn may_change(&self, name: Option<&str>) -> bool {
        let fits = |pattern: &String| match (pattern.strip_suffix('*'), name) {
            (Some(start), Some(name)) => name.starts_with(start),
            (Some(start), None) => start.is_empty(),
            (None, Some(name)) => pattern == name,
            (None, None) => false,
        };
        self.names.is_empty() || self.names.iter().any(fits)
    }
}

/// The scope that a request needs, and the name that it is about.
fn wanted<'p>(method: &Method, path: &'p str) -> (Scope, Option<&'p str>) {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) || path == "/v1/explain" {
        return (Scope::Read, None);
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["v1", "config", _, name] => (Scope::Config, Some(name)),
        ["v1", "config", ..] => (Scope::Config, None),
        ["v1", "services", name, _] => (Scope::Endpoints, Some(name)),
        ["v1", "endpoints"] => (Scope::Endpoints, None),
        _ => (Scope::Lifecycle, None),
    }
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Endpoints => "endpoints",
        Scope::Config => "config",
        Scope::Lifecycle => "lifecycle",
    }
}

/// RFC 6750 §2.1; the scheme in any case (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

fn unauthorized(detail: &'static str) -> Problem {
    let challenge = HeaderValue::from_static("Bearer realm=\"ringside admin\"");
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .header(header::WWW_AUTHENTICATE, challenge)
}

/// The token in this file, made where there is none.
fn generated(path: &Path) -> io::Result<Vec<u8>> {
    if let Ok(secret) = fs::read(path)
        && let Ok(secret) = config::token_in(&secret)
    {
        return Ok(secret.to_vec());
    }
    let mut random = [0; 32];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // What was there is no token; the file of a new one is nobody else's to read.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")?;
    Ok(secret.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let known = |name: &str, scopes: &[Scope], names: &[&str]| Known {
            name: name.to_owned(),
            secret: format!("secret-of-{name}-0123").into_bytes(),
            scopes: scopes.to_vec(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        Guard::Tokens(vec![
            known("reader", &[Scope::Read], &[]),
            known("pusher", &[Scope::Read, Scope::Endpoints], &["shop.*", "cart"]),
            known("owner", &[Scope::Read, Scope::Endpoints, Scope::Config, Scope::Lifecycle], &[]),
        ])
    }

    fn status(token: &str, method: Method, path: &str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, token.parse().unwrap());
        guard().check(&method, path, &headers).map_or_else(|no| no.status.as_u16(), |_| 200)
    }

    #[test]
    fn scopes_and_names() {
        let by = |who: &str, method: Method, path: &str| {
            status(&format!("Bearer secret-of-{who}-0123"), method, path)
        };
        assert_eq!(by("reader", Method::GET, "/v1/config"), 200);
        assert_eq!(by("reader", Method::POST, "/v1/explain"), 200);
        assert_eq!(by("reader", Method::PUT, "/v1/config"), 403);
        assert_eq!(by("reader", Method::POST, "/v1/quit"), 403);
        for (name, expect) in [("shop.web", 200), ("cart", 200), ("carts", 403), ("shop", 403)] {
            let path = format!("/v1/services/{name}/endpoints");
            assert_eq!(by("pusher", Method::PUT, &path), expect, "{name}");
        }
        assert_eq!(by("pusher", Method::POST, "/v1/endpoints"), 403, "it names any");
        assert_eq!(by("pusher", Method::PUT, "/v1/config/routes/cart"), 403);
        for path in ["/v1/config", "/v1/config/batch", "/v1/config/routes/a", "/v1/drain"] {
            assert_eq!(by("owner", Method::POST, path), 200, "{path}");
        }
    }

    #[test]
    fn who_is_not_known_is_nobody() {
        for token in
            ["", "Bearer", "Bearer x", "Basic secret-of-owner-0123", "secret-of-owner-0123"]
        {
            assert_eq!(status(token, Method::GET, "/v1/status"), 401, "{token:?}");
        }
        assert_eq!(status("bearer secret-of-owner-0123", Method::GET, "/v1/status"), 200);
        let none = guard().check(&Method::GET, "/v1/status", &HeaderMap::new());
        assert_eq!(none.unwrap_err().status.as_u16(), 401);
    }
}
