//! The endpoints.

use std::{fmt, rc::Rc};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER},
};
use serde_json::{Value, json};

use super::{
    api::{Api, Named, Whole, pooling::Pooling},
    driver::{Driver, Ticket, Tickets},
    events::{FINGERPRINT, error_body},
    fault::{self, Fault, FaultKind},
    logprobs,
    request::{self, Ask, Refusal, TokenizeBody},
    script::{Answer, Script},
    server::Options,
    stream::EventStream,
    vocabulary::{END_OF_TEXT, Vocabulary},
    wire::SharedTap,
};
use crate::{
    clock::Clock,
    record::Truth,
    units::{Nanos, SECOND},
};

/// What all requests share.
pub struct Server {
    /// What was asked for on the command line.
    pub options: Options,
    /// The time.
    pub clock: Clock,
    /// The texts.
    pub vocabulary: Rc<Vocabulary>,
    /// The engine.
    pub driver: Rc<Driver>,
    /// Requests so far that came without a name.
    pub unnamed: std::cell::Cell<u64>,
}

/// The body of any answer.
pub type AnyBody = Either<Full<Bytes>, EventStream>;

/// A connection that is closed in place of an answer.
#[derive(Debug)]
pub struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault closes the connection")
    }
}

impl std::error::Error for Dropped {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Generate(Api),
    Pool(Pooling),
    Models,
    Health,
    Version,
    Tokenize,
    Detokenize,
    ResetPrefixCache,
    Metrics,
}

fn route(path: &str) -> Option<(Route, Method)> {
    Some(match path {
        "/v1/models" => (Route::Models, Method::GET),
        "/health" | "/ping" => (Route::Health, Method::GET),
        "/version" => (Route::Version, Method::GET),
        "/tokenize" => (Route::Tokenize, Method::POST),
        "/detokenize" => (Route::Detokenize, Method::POST),
        "/reset_prefix_cache" => (Route::ResetPrefixCache, Method::POST),
        "/metrics" => (Route::Metrics, Method::GET),
        _ => match (Api::of(path), Pooling::of(path)) {
            (Some(api), _) => (Route::Generate(api), Method::POST),
            (None, Some(pooling)) => (Route::Pool(pooling), Method::POST),
            (None, None) => return None,
        },
    })
}

impl Server {
    /// Answers one request.
    pub async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        tap: SharedTap,
    ) -> Result<Response<AnyBody>, Dropped> {
        let path = request.uri().path();
        if path.starts_with("/v1") && !self.is_allowed(&request) {
            return Ok(json_answer(StatusCode::UNAUTHORIZED, &json!({"error": "Unauthorized"})));
        }
        let Some((route, method)) = route(path) else {
            return Ok(json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})));
        };
        if method != request.method() {
            let mut answer = json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
            if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
                answer.headers_mut().insert(ALLOW, allowed);
            }
            return Ok(answer);
        }
        match route {
            Route::Generate(api) => self.generate(request, api, tap).await,
            Route::Pool(pooling) => self.pool(request, pooling, tap).await,
            Route::Tokenize | Route::Detokenize => {
                let answer = self.tokenize(request, route == Route::Tokenize).await;
                Ok(answer.unwrap_or_else(|refusal| json_answer(refusal.status, &refusal.body)))
            }
            Route::Models => Ok(json_answer(StatusCode::OK, &self.models())),
            Route::Health => Ok(plain(StatusCode::OK, None, String::new())),
            Route::Version => Ok(json_answer(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))),
            Route::ResetPrefixCache => {
                Ok(json_answer(StatusCode::OK, &json!({"success": self.driver.reset_prefix_cache()})))
            }
            Route::Metrics => {
                let model = self.options.models.first().map_or("", String::as_str);
                let kind = "text/plain; version=1.0.0; charset=utf-8";
                Ok(plain(StatusCode::OK, Some(kind), self.driver.metrics_page(model)))
            }
        }
    }

    fn is_allowed(&self, request: &Request<Incoming>) -> bool {
        let Some(key) = &self.options.api_key else { return true };
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        if header("x-api-key") == Some(key) {
            return true;
        }
        header(AUTHORIZATION.as_str())
            .and_then(|value| value.split_once(' '))
            .is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case("bearer") && given == key)
    }

    fn models(&self) -> Value {
        let created = self.unix_seconds();
        let permission = json!([{"id": "modelperm-0", "object": "model_permission", "created": created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
            "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false, "organization": "*",
            "group": null, "is_blocking": false}]);
        let card = |(place, name): (usize, &String)| {
            let parent = (place > 0).then(|| self.options.models.first());
            json!({"id": name, "object": "model", "created": created, "owned_by": "vb-sim", "root": name,
                "parent": parent, "max_model_len": self.options.profile.max_model_len, "permission": permission})
        };
        json!({"object": "list", "data": self.options.models.iter().enumerate().map(card).collect::<Vec<_>>()})
    }

    async fn tokenize(&self, request: Request<Incoming>, there: bool) -> Result<Response<AnyBody>, Refusal> {
        let body: TokenizeBody = request::parse(&read(request).await?)?;
        request::model(body.model.as_deref(), &self.options.models)?;
        let text = |ids: &[u32]| self.vocabulary.decode(ids).map_err(|e| Refusal::bad(Some("tokens"), &e.to_string()));
        if !there {
            let ids = body.tokens.ok_or_else(|| request::missing("tokens"))?;
            return Ok(json_answer(StatusCode::OK, &json!({"prompt": text(&ids)?})));
        }
        let ids = body.tokens(&self.vocabulary)?;
        let texts = match body.return_token_strs {
            Some(true) => Some(ids.iter().map(|id| text(&[*id])).collect::<Result<Vec<_>, _>>()?),
            _ => None,
        };
        let limit = self.options.profile.max_model_len;
        let answer = json!({"count": ids.len(), "max_model_len": limit, "tokens": ids, "token_strs": texts});
        Ok(json_answer(StatusCode::OK, &answer))
    }

    async fn generate(
        &self,
        request: Request<Incoming>,
        api: Api,
        tap: SharedTap,
    ) -> Result<Response<AnyBody>, Dropped> {
        let name = self.name(&request);
        let kind = content_type(&request).to_owned();
        // A form is one whatever else it says.
        let bytes = if api == Api::Audio { read_any(request).await } else { read(request).await };
        self.received(&name, &tap);
        // `/generate` is of two APIs, and the body says of which.
        let api = bytes.as_ref().map_or(api, |bytes| api.settle(bytes));
        let ask = bytes.and_then(|bytes| {
            let room = self.options.profile.max_model_len;
            api.body(&bytes, &kind)?.check(api.is_chat(), &self.options.models, room, &self.vocabulary)
        });
        let ask = match ask {
            Ok(ask) => ask,
            Err(refusal) => return Ok(noted(&tap, json_answer(refusal.status, &api.refusal(refusal.body)))),
        };
        let fault = ask.fault.or_else(|| fault::choose(&self.options.faults, self.options.seed, &name));
        tap.borrow_mut().note(|truth| {
            truth.prompt_tokens = ask.prompt_tokens();
            truth.fault = fault.map(|fault| fault.to_string());
        });
        if let Some(answer) = instead(fault, &tap).await? {
            return Ok(noted(&tap, answer));
        }
        let exchange = Exchange { server: self, api, ask, name, fault, tap };
        if exchange.ask.stream { Ok(exchange.stream()) } else { Ok(exchange.whole().await) }
    }

    /// Computes prompts and generates nothing.
    async fn pool(
        &self,
        request: Request<Incoming>,
        pooling: Pooling,
        tap: SharedTap,
    ) -> Result<Response<AnyBody>, Dropped> {
        let name = self.name(&request);
        let bytes = read(request).await;
        self.received(&name, &tap);
        let (models, room) = (&self.options.models, self.options.profile.max_model_len);
        let asked = match bytes.and_then(|bytes| pooling.ask(&bytes, models, room, &self.vocabulary)) {
            Ok(asked) => asked,
            Err(refusal) => return Ok(noted(&tap, json_answer(refusal.status, &refusal.body))),
        };
        let fault = asked.fault.or_else(|| fault::choose(&self.options.faults, self.options.seed, &name));
        let tokens = asked.prompts.iter().map(Vec::len).sum::<usize>();
        tap.borrow_mut().note(|truth| {
            truth.prompt_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            truth.fault = fault.map(|fault| fault.to_string());
        });
        if let Some(answer) = instead(fault, &tap).await? {
            return Ok(noted(&tap, answer));
        }
        let tickets: Vec<Ticket> = asked.prompts.iter().map(|prompt| self.driver.submit_prompt(prompt)).collect();
        for mut ticket in tickets {
            ticket.finished().await;
        }
        let reply = pooling.reply(&asked, &name, self.unix_seconds(), self.options.seed);
        Ok(noted(&tap, json_answer(StatusCode::OK, &reply)))
    }

    /// Notes that a request is there.
    fn received(&self, name: &str, tap: &SharedTap) {
        let received = self.clock.to_unix(self.clock.now());
        tap.borrow_mut().begin(Truth { request_id: name.to_owned(), received, ..Truth::default() });
    }

    /// The client's `x-request-id`, or one of our own.
    fn name(&self, request: &Request<Incoming>) -> String {
        let given = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
        given.filter(|name| !name.is_empty()).map_or_else(
            || {
                let number = self.unnamed.replace(self.unnamed.get() + 1);
                format!("vb-sim-{number}")
            },
            str::to_owned,
        )
    }

    fn unix_seconds(&self) -> u64 {
        self.clock.to_unix(self.clock.now()).0 / SECOND
    }
}

/// What a fault does in place of an answer or before it.
async fn instead(fault: Option<Fault>, tap: &SharedTap) -> Result<Option<Response<AnyBody>>, Dropped> {
    let Some(Fault { kind, n }) = fault else { return Ok(None) };
    let page = "<html><head><title>Bad Gateway</title></head><body><h1>upstream error</h1></body></html>\n";
    let html = Some("text/html; charset=utf-8");
    Ok(match kind {
        FaultKind::CloseBeforeHeaders => return Err(Dropped),
        FaultKind::ResetBeforeHeaders => {
            tap.borrow_mut().reset();
            return Err(Dropped);
        }
        FaultKind::NeverAnswer => std::future::pending().await,
        FaultKind::SlowHeaders => {
            tokio::time::sleep(Nanos(u64::from(n) * 1_000_000).to_duration()).await;
            None
        }
        FaultKind::Html500 => Some(plain(StatusCode::INTERNAL_SERVER_ERROR, html, page.into())),
        FaultKind::Html200 => Some(plain(StatusCode::OK, html, page.into())),
        _ => kind.status().map(|(code, name)| status_fault(code, name)),
    })
}

fn status_fault(code: u16, name: &str) -> Response<AnyBody> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = match status {
        StatusCode::UNAUTHORIZED => json!({"error": "Unauthorized"}),
        _ => error_body(code, name, None, &format!("vb-sim was asked to answer with {code}")),
    };
    let mut answer = json_answer(status, &body);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// A request that is served, and what serves it.
struct Exchange<'a> {
    server: &'a Server,
    api: Api,
    ask: Ask,
    name: String,
    fault: Option<Fault>,
    tap: SharedTap,
}

impl Exchange<'_> {
    fn id(&self) -> String {
        let kind = if self.api == Api::Chat { "chatcmpl" } else { "cmpl" };
        format!("{kind}-{}", self.name)
    }

    fn finish(&self) -> &'static str {
        match &self.ask.tool {
            _ if self.ask.length.ignore_eos && !self.has(FaultKind::Empty) => "length",
            Some(tool) if tool.any => "tool_calls",
            _ => "stop",
        }
    }

    fn has(&self, kind: FaultKind) -> bool {
        self.fault.is_some_and(|fault| fault.kind == kind)
    }

    /// Queues the request. An answer that is to be empty needs no engine.
    fn submit(&self) -> (Vec<Rc<[u32]>>, Tickets) {
        let Exchange { server, ask, .. } = self;
        let (mut outputs, mut tickets) = (Vec::new(), Tickets { each: Vec::new(), n: ask.n });
        for prompt in &ask.prompts {
            for which in 0..ask.n as u64 {
                if self.has(FaultKind::Empty) {
                    outputs.push(Rc::new([]) as Rc<[u32]>);
                    continue;
                }
                let output: Rc<[u32]> = server.vocabulary.answer(server.options.seed, prompt, which, ask.length).into();
                let stops = output.last() == Some(&END_OF_TEXT);
                tickets.each.push(server.driver.submit(prompt, Rc::clone(&output), stops));
                outputs.push(output);
            }
        }
        (outputs, tickets)
    }

    fn stream(self) -> Response<AnyBody> {
        let (outputs, tickets) = self.submit();
        let finish = self.finish();
        let dialect = self.api.dialect(self.named());
        let media = dialect.media();
        let script = Script::new(Answer {
            dialect,
            vocabulary: Rc::clone(&self.server.vocabulary),
            outputs,
            finish,
            tool: self.ask.tool.map(|tool| tool.name),
            logprobs: self.ask.logprobs,
            tokens_per_chunk: self.server.options.tokens_per_chunk as usize,
            // Only OpenAI's own want to be asked for it.
            include_usage: self.ask.include_usage || !matches!(self.api, Api::Completions | Api::Chat),
            fault: self.fault,
        });
        self.tap.borrow_mut().note(|truth| {
            truth.status = Some(200);
            // Until the stream is over, the reason is that of its plan; `Tickets::tell` corrects it.
            truth.finish_reason = Some(finish.into());
        });
        with_kind(StatusCode::OK, Some(media), Either::Right(EventStream::new(script, tickets, self.tap)))
    }

    fn named(&self) -> Named {
        Named {
            name: self.name.clone(),
            created: self.server.unix_seconds(),
            model: self.ask.model.clone(),
            prompt_tokens: self.ask.prompt_tokens(),
            max_tokens: self.ask.length.max_tokens,
            continuous_usage: self.ask.continuous_usage && !self.has(FaultKind::NoUsage),
            prompt_ids: self.ask.return_token_ids.then(|| self.ask.prompts.clone()),
            n: self.ask.n,
            answers: self.ask.prompts.len() * self.ask.n,
        }
    }

    async fn whole(self) -> Response<AnyBody> {
        let (outputs, mut tickets) = self.submit();
        if !tickets.each.is_empty() {
            tickets.finished().await;
            self.tap.borrow_mut().note(|truth| {
                truth.finish_reason = Some(self.finish().into());
                tickets.tell(truth);
            });
        }
        let cached = tickets.cached_tokens();
        let tokens = u32::try_from(outputs.iter().map(|output| output.len()).sum::<usize>()).unwrap_or(u32::MAX);
        self.tap.borrow_mut().queue(tokens);
        let mut dialect = self.api.dialect(self.named());
        dialect.set_cached_tokens(cached);
        let text = outputs.first().map(|output| self.server.vocabulary.texts(output)).unwrap_or_default();
        let usage = !self.has(FaultKind::NoUsage);
        let whole = Whole { text: &text, generated: tokens, finish: self.finish(), usage };
        let body = dialect.whole(whole).unwrap_or_else(|| self.whole_body(&outputs, tokens, cached));
        noted(&self.tap, json_answer(StatusCode::OK, &body))
    }

    /// The answer in one piece, as vLLM writes it.
    fn whole_body(&self, outputs: &[Rc<[u32]>], generated: u32, cached: u32) -> Value {
        let ids = |ids: &[u32]| self.ask.return_token_ids.then(|| ids.to_vec());
        let prompt = self.ask.prompt_tokens();
        let details = (cached > 0).then(|| json!({"cached_tokens": cached}));
        let usage = json!({"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated,
            "prompt_tokens_details": details, "completion_tokens_details": null});
        let usage = if self.has(FaultKind::NoUsage) { Value::Null } else { usage };
        let (id, model, created) = (self.id(), &self.ask.model, self.server.unix_seconds());
        let choices = outputs.iter().enumerate();
        if self.api == Api::Chat {
            let choices: Vec<Value> = choices.map(|(index, output)| self.chat_choice(index, output)).collect();
            return json!({"id": id, "object": "chat.completion", "created": created, "model": model,
                "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT, "usage": usage,
                "prompt_logprobs": null, "prompt_token_ids": self.ask.prompts.first().map(|prompt| ids(prompt)),
                "prompt_text": null, "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null});
        }
        let vocabulary = &self.server.vocabulary;
        let choice = |(index, output): (usize, &Rc<[u32]>)| {
            let logprobs = self.ask.logprobs.map(|top| logprobs::of_completion(vocabulary, output, top, 0));
            json!({"index": index, "text": vocabulary.texts(output), "logprobs": logprobs, "finish_reason": self.finish(),
                "stop_reason": null, "token_ids": ids(output), "prompt_logprobs": null,
                "prompt_token_ids": self.ask.prompts.get(index / self.ask.n).map(|prompt| ids(prompt)),
                "routed_experts": null})
        };
        json!({"id": id, "object": "text_completion", "created": created, "model": model,
            "choices": choices.map(choice).collect::<Vec<_>>(), "service_tier": null, "system_fingerprint": FINGERPRINT,
            "usage": usage, "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null})
    }

    fn chat_choice(&self, index: usize, output: &[u32]) -> Value {
        let vocabulary = &self.server.vocabulary;
        let text = vocabulary.texts(output);
        let mut message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": null,
            "audio": null, "function_call": null});
        if let Some(tool) = &self.ask.tool {
            message["content"] = "".into();
            message["tool_calls"] = json!([{"id": "call_0", "type": "function",
                "function": {"name": tool.name, "arguments": text}}]);
        }
        message["reasoning"] = Value::Null;
        let logprobs = self.ask.logprobs.map(|top| logprobs::of_chat(vocabulary, output, top));
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish(), "stop_reason": null,
            "token_ids": self.ask.return_token_ids.then(|| output.to_vec()), "routed_experts": null})
    }
}

/// An answer whose every byte is handed to hyper now.
fn noted(tap: &SharedTap, answer: Response<AnyBody>) -> Response<AnyBody> {
    let mut tap = tap.borrow_mut();
    tap.note(|truth| truth.status = Some(answer.status().as_u16()));
    tap.complete();
    drop(tap);
    answer
}

/// Reads a body that says it is JSON.
async fn read(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let kind = content_type(&request).split(';').next().unwrap_or_default();
    let is_json = kind.trim().eq_ignore_ascii_case("application/json");
    let body = read_any(request).await?;
    if is_json { Ok(body) } else { Err(request::not_json()) }
}

async fn read_any(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = request.into_body().collect().await.map_err(|e| Refusal::bad(None, &e.to_string()))?;
    Ok(body.to_bytes())
}

fn content_type(request: &Request<Incoming>) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn json_answer(status: StatusCode, body: &Value) -> Response<AnyBody> {
    plain(status, Some("application/json"), body.to_string())
}

fn plain(status: StatusCode, kind: Option<&'static str>, body: String) -> Response<AnyBody> {
    with_kind(status, kind, Either::Left(Full::new(body.into())))
}

fn with_kind(status: StatusCode, kind: Option<&'static str>, body: AnyBody) -> Response<AnyBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(SERVER, HeaderValue::from_static("vb-sim"));
    if let Some(kind) = kind {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    answer
}
