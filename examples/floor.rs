//! Measures the cost of reading streams of tokens without parsing them: only stamped reads on one thread.
//!
//! `floor URL STREAMS TOKENS` opens STREAMS connections to a vb-sim, sends a request on each, and reads to the end. A client
//! that wakes up for each chunk cannot use less CPU, so `scripts/bench-peers.sh` compares the others with it.

use std::{cell::RefCell, error::Error, future::poll_fn, pin::Pin, rc::Rc};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    runtime::Builder,
    task::{JoinSet, LocalSet},
};
use vb::{
    clock::Clock,
    http::socket::{KernelStamping, Socket},
};

/// The last bytes of a response with chunked encoding.
const END: &[u8] = b"0\r\n\r\n";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, streams, tokens] = &args[..] else { return Err("usage: floor URL STREAMS TOKENS".into()) };
    let address = url.trim_start_matches("http://").to_owned();
    let (streams, tokens): (usize, u32) = (streams.parse()?, tokens.parse()?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, read_all(&address, streams, tokens))
}

async fn read_all(address: &str, streams: usize, tokens: u32) -> Result<(), Box<dyn Error>> {
    let _stamping = KernelStamping::switch_on();
    let body = format!(r#"{{"prompt":[1,2,3,4,5,6,7,8],"max_tokens":{tokens},"ignore_eos":true,"stream":true}}"#);
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let clock = Clock::start();
    let mut sockets = Vec::new();
    for _ in 0..streams {
        sockets.push(Socket::new(TcpStream::connect(address).await?, clock));
    }
    // One buffer for all, because the bytes are discarded.
    let buffer = Rc::new(RefCell::new(vec![0; 1 << 12]));
    let mut reading = JoinSet::new();
    for mut socket in sockets {
        socket.write_all(request.as_bytes()).await?;
        reading.spawn_local(read_to_end(socket, Rc::clone(&buffer)));
    }
    while let Some(read) = reading.join_next().await {
        read??;
    }
    Ok(())
}

async fn read_to_end(mut socket: Socket, buffer: Rc<RefCell<Vec<u8>>>) -> std::io::Result<()> {
    loop {
        let read = poll_fn(|cx| {
            let mut buffer = buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            let done = Pin::new(&mut socket).poll_read(cx, &mut read);
            done.map_ok(|()| (read.filled().len(), read.filled().ends_with(END)))
        });
        match read.await? {
            (_, true) => return Ok(()),
            (0, false) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}
