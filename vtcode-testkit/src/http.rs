//! HTTP/1.1, by hand because tests decide about single bytes: bytes of a connection come in,
//! requests go out; heads and chunks of responses are framed.
//! Never answers by itself, except that it says `100 Continue` to a client that waits for it.

use std::fmt::Write as _;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MAX_HEAD_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

/// A request as it came.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client went.
    Gone,
    /// It does not speak the protocol; the connection cannot be used on.
    Refused { code: u16, why: String },
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The receiving side of a connection: what was read and not yet used.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Reads one request.
    pub(crate) async fn request(&mut self, stream: &mut TcpStream) -> Result<Incoming, ReadError> {
        let head = loop {
            // A blank line or two before a request are allowed, and some clients send them.
            let blank = self.bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.bytes.drain(..blank);
            if let Some(at) = find(&self.bytes, b"\r\n\r\n") {
                break self.take(at + 4);
            }
            if self.bytes.len() > MAX_HEAD_BYTES {
                return Err(refused(431, "the request's head is too long"));
            }
            self.more(stream).await?;
        };
        let head = str::from_utf8(&head).map_err(|_| refused(400, "the head is not UTF-8"))?;
        let mut request = parse(head.trim_end())?;
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
        {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = match request.header("transfer-encoding") {
            Some(coding) if coding.eq_ignore_ascii_case("chunked") => self.chunked(stream).await?,
            Some(_) => return Err(refused(501, "the only transfer coding here is chunked")),
            None => {
                let bytes = match request.header("content-length") {
                    Some(length) => length
                        .parse()
                        .map_err(|_| refused(400, "the content-length is not a number"))?,
                    None => 0,
                };
                self.exactly(stream, bytes, MAX_BODY_BYTES).await?
            }
        };
        Ok(request)
    }

    /// Returns when the client has gone; keeps what it sends before. To half-close counts as going:
    /// no HTTP client that wants its answer does it.
    pub(crate) async fn until_gone(&mut self, read: &mut tokio::net::tcp::ReadHalf<'_>) {
        while self.bytes.len() <= MAX_HEAD_BYTES {
            match read.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // It talks on without listening; whether it goes will show when we write.
        std::future::pending::<()>().await;
    }

    /// Says that nothing more will be answered, and reads what comes until the client has gone.
    pub(crate) async fn drain(stream: &mut TcpStream) {
        let mut nowhere = [0; 4096];
        if stream.shutdown().await.is_ok() {
            while stream.read(&mut nowhere).await.is_ok_and(|bytes| bytes > 0) {}
        }
    }

    async fn chunked(&mut self, stream: &mut TcpStream) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let line = self.line(stream).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| refused(400, "the size of a chunk is not a number"))?;
            if size == 0 {
                break;
            }
            body.extend(self.exactly(stream, size, MAX_BODY_BYTES - body.len()).await?);
            if !self.line(stream).await?.is_empty() {
                return Err(refused(400, "a chunk is longer than it says"));
            }
        }
        // Trailers, which nobody needs, end with a blank line as the head does.
        while !self.line(stream).await?.is_empty() {}
        Ok(body)
    }

    async fn line(&mut self, stream: &mut TcpStream) -> Result<String, ReadError> {
        loop {
            if let Some(at) = find(&self.bytes, b"\r\n") {
                let mut line = self.take(at + 2);
                line.truncate(at);
                return String::from_utf8(line).map_err(|_| refused(400, "a line is not UTF-8"));
            }
            if self.bytes.len() > MAX_HEAD_BYTES {
                return Err(refused(400, "a line is too long"));
            }
            self.more(stream).await?;
        }
    }

    async fn exactly(
        &mut self,
        stream: &mut TcpStream,
        bytes: usize,
        most: usize,
    ) -> Result<Vec<u8>, ReadError> {
        if bytes > most {
            return Err(refused(413, "the request's body is too long"));
        }
        while self.bytes.len() < bytes {
            self.more(stream).await?;
        }
        Ok(self.take(bytes))
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(bytes);
        std::mem::replace(&mut self.bytes, rest)
    }

    async fn more(&mut self, stream: &mut TcpStream) -> Result<(), ReadError> {
        // A request of an agent has some ten to hundred kilobytes; few reads should take it.
        self.bytes.reserve(READ_BYTES);
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(ReadError::Gone),
            _ => Ok(()),
        }
    }
}

impl Incoming {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// Returns the first value of a header.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Returns the head of a response, with its blank line.
pub(crate) fn head(code: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let reason = if code == 200 { "OK" } else { "" };
    let mut head = format!("HTTP/1.1 {code} {reason}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").expect("a string takes whatever is written");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Appends one chunk of the chunked coding.
pub(crate) fn chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// What ends a chunked body.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn parse(head: &str) -> Result<Incoming, ReadError> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Err(refused(400, "the first line is not a request line"));
    };
    if version != "HTTP/1.1" {
        return Err(refused(505, "only HTTP/1.1 is spoken here"));
    }
    let headers = lines
        .map(|line| {
            let (name, value) =
                line.split_once(':').ok_or_else(|| refused(400, "a header has no colon"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<Result<_, ReadError>>()?;
    Ok(Incoming { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() })
}

fn refused(code: u16, why: &str) -> ReadError {
    ReadError::Refused { code, why: why.to_owned() }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
