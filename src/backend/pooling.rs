//! vLLM's `/pooling`: whatever a pooling model gives. A request and its reply:
//!
//! ```json
//! {"model":"m","input":"hi"}
//! {"object":"list","data":[{"index":0,"object":"pooling","data":[0.1,-0.2]}],"usage":{"prompt_tokens":1,"total_tokens":1}}
//! ```

use super::{Api, Delta, Payload, Sampling, embeddings, embeddings::Embeddings};
use crate::{
    http::{exchange::Cut, sse::Event},
    record::{Object, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct Pooling;

impl Api for Pooling {
    fn endpoint(&self, _stream: bool) -> &'static str {
        "/pooling"
    }

    fn body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        Embeddings.body(request, model, stream)
    }

    fn sampling(&self) -> Sampling {
        Sampling::NONE
    }

    fn encode(&self, body: &Object, request: &SampleRequest) -> Result<Payload, String> {
        Embeddings.encode(body, request)
    }

    fn cut(&self, _stream: bool) -> Cut {
        Cut::Whole
    }

    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String> {
        self.whole(event.data)
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        embeddings::results(body)
    }

    fn generates(&self) -> bool {
        false
    }
}
