//! Routes requests to the endpoints and makes the responses.

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
    api::{GenerationApi, pooling::PoolingEndpoint},
    dialect::{FullOutput, ResponseMeta},
    driver::{Driver, Ticket, Tickets},
    fault::{self, Fault, FaultKind},
    request::{self, ApiError, GenerationRequest, TokenizeBody, error_body},
    script::{Script, StreamPlan},
    server::SimOptions,
    stream::EventStream,
    vocabulary::{END_OF_TEXT, Vocabulary},
    wire::SharedTap,
};
use crate::{
    clock::Clock,
    record::Truth,
    units::{Nanos, SECOND},
};

/// The state that all requests share.
pub struct SimServer {
    /// The configuration.
    pub options: SimOptions,
    /// The clock of all timestamps.
    pub clock: Clock,
    /// Turns prompts into tokens and generates outputs.
    pub vocabulary: Rc<Vocabulary>,
    /// Runs the engine.
    pub driver: Rc<Driver>,
    /// The number of requests so far without an `x-request-id`.
    pub generated_ids: std::cell::Cell<u64>,
}

/// The body of a response, streamed or not.
pub type ResponseBody = Either<Full<Bytes>, EventStream>;

/// A fault closes the connection instead of sending a response.
#[derive(Debug)]
pub struct ConnectionDropped;

impl fmt::Display for ConnectionDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault closes the connection")
    }
}

impl std::error::Error for ConnectionDropped {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Generate(GenerationApi),
    Pool(PoolingEndpoint),
    Models,
    Health,
    Version,
    Tokenize,
    Detokenize,
    ResetPrefixCache,
    Metrics,
}

fn find_route(path: &str) -> Option<(Route, Method)> {
    Some(match path {
        "/v1/models" => (Route::Models, Method::GET),
        "/health" | "/ping" => (Route::Health, Method::GET),
        "/version" => (Route::Version, Method::GET),
        "/tokenize" => (Route::Tokenize, Method::POST),
        "/detokenize" => (Route::Detokenize, Method::POST),
        "/reset_prefix_cache" => (Route::ResetPrefixCache, Method::POST),
        "/metrics" => (Route::Metrics, Method::GET),
        _ => match (GenerationApi::from_path(path), PoolingEndpoint::from_path(path)) {
            (Some(api), _) => (Route::Generate(api), Method::POST),
            (None, Some(endpoint)) => (Route::Pool(endpoint), Method::POST),
            (None, None) => return None,
        },
    })
}

impl SimServer {
    /// Handles one request.
    pub async fn handle_request(
        self: Rc<Self>,
        request: Request<Incoming>,
        tap: SharedTap,
    ) -> Result<Response<ResponseBody>, ConnectionDropped> {
        let path = request.uri().path();
        if path.starts_with("/v1") && !self.is_allowed(&request) {
            return Ok(json_response(StatusCode::UNAUTHORIZED, &json!({"error": "Unauthorized"})));
        }
        let Some((route, method)) = find_route(path) else {
            return Ok(json_response(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})));
        };
        if method != request.method() {
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
            if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
                response.headers_mut().insert(ALLOW, allowed);
            }
            return Ok(response);
        }
        match route {
            Route::Generate(api) => self.generate_response(request, api, tap).await,
            Route::Pool(endpoint) => self.compute_pooling(request, endpoint, tap).await,
            Route::Tokenize | Route::Detokenize => {
                let response = self.tokenize_or_detokenize(request, route == Route::Tokenize).await;
                Ok(response.unwrap_or_else(|error| json_response(error.status, &error.body)))
            }
            Route::Models => Ok(json_response(StatusCode::OK, &self.model_list())),
            Route::Health => Ok(text_response(StatusCode::OK, None, String::new())),
            Route::Version => Ok(json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))),
            Route::ResetPrefixCache => {
                Ok(json_response(StatusCode::OK, &json!({"success": self.driver.reset_prefix_cache()})))
            }
            Route::Metrics => {
                let model = self.options.models.first().map_or("", String::as_str);
                let content_type = "text/plain; version=1.0.0; charset=utf-8";
                Ok(text_response(StatusCode::OK, Some(content_type), self.driver.metrics_page(model)))
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

    fn model_list(&self) -> Value {
        let created = self.unix_seconds();
        let permission = json!([{"id": "modelperm-0", "object": "model_permission", "created": created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
            "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false, "organization": "*",
            "group": null, "is_blocking": false}]);
        let card = |(index, name): (usize, &String)| {
            let parent = (index > 0).then(|| self.options.models.first());
            json!({"id": name, "object": "model", "created": created, "owned_by": "vb-sim", "root": name,
                "parent": parent, "max_model_len": self.options.profile.max_model_len, "permission": permission})
        };
        json!({"object": "list", "data": self.options.models.iter().enumerate().map(card).collect::<Vec<_>>()})
    }

    async fn tokenize_or_detokenize(
        &self,
        request: Request<Incoming>,
        tokenize: bool,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let body: TokenizeBody = request::parse_json(&read_json_body(request).await?)?;
        request::resolve_model(body.model.as_deref(), &self.options.models)?;
        let text = |ids: &[u32]| {
            self.vocabulary.decode_tokens(ids).map_err(|e| ApiError::bad_request(Some("tokens"), &e.to_string()))
        };
        if !tokenize {
            let ids = body.tokens.ok_or_else(|| request::missing_key("tokens"))?;
            return Ok(json_response(StatusCode::OK, &json!({"prompt": text(&ids)?})));
        }
        let ids = body.encode_input(&self.vocabulary)?;
        let texts = match body.return_token_strs {
            Some(true) => Some(ids.iter().map(|id| text(&[*id])).collect::<Result<Vec<_>, _>>()?),
            _ => None,
        };
        let limit = self.options.profile.max_model_len;
        let response = json!({"count": ids.len(), "max_model_len": limit, "tokens": ids, "token_strs": texts});
        Ok(json_response(StatusCode::OK, &response))
    }

    async fn generate_response(
        &self,
        request: Request<Incoming>,
        api: GenerationApi,
        tap: SharedTap,
    ) -> Result<Response<ResponseBody>, ConnectionDropped> {
        let id = self.request_id(&request);
        let content_type = content_type(&request).to_owned();
        // The audio API takes a form, so its content type is not checked.
        let bytes = if api == GenerationApi::Audio { read_body(request).await } else { read_json_body(request).await };
        self.record_received(&id, &tap);
        let api = bytes.as_ref().map_or(api, |bytes| api.resolve_by_body(bytes));
        let valid = bytes.and_then(|bytes| {
            let max_model_len = self.options.profile.max_model_len;
            let body = api.parse_body(&bytes, &content_type)?;
            body.validate(api.is_chat(), &self.options.models, max_model_len, &self.vocabulary)
        });
        let request = match valid {
            Ok(request) => request,
            Err(error) => {
                return Ok(complete_response(&tap, json_response(error.status, &api.translate_error(error.body))));
            }
        };
        let fault = request.fault.or_else(|| fault::choose_fault(&self.options.faults, self.options.seed, &id));
        tap.borrow_mut().update_truth(|truth| {
            truth.prompt_tokens = request.prompt_tokens();
            truth.fault = fault.map(|fault| fault.to_string());
        });
        if let Some(response) = apply_early_fault(fault, &tap).await? {
            return Ok(complete_response(&tap, response));
        }
        let generation = Generation { server: self, api, request, id, fault, tap };
        if generation.request.stream { Ok(generation.stream_response()) } else { Ok(generation.full_response().await) }
    }

    /// Computes prompts without generating tokens.
    async fn compute_pooling(
        &self,
        request: Request<Incoming>,
        endpoint: PoolingEndpoint,
        tap: SharedTap,
    ) -> Result<Response<ResponseBody>, ConnectionDropped> {
        let id = self.request_id(&request);
        let bytes = read_json_body(request).await;
        self.record_received(&id, &tap);
        let (models, max_model_len) = (&self.options.models, self.options.profile.max_model_len);
        let parsed = bytes.and_then(|bytes| endpoint.parse_request(&bytes, models, max_model_len, &self.vocabulary));
        let job = match parsed {
            Ok(job) => job,
            Err(error) => return Ok(complete_response(&tap, json_response(error.status, &error.body))),
        };
        let fault = job.fault.or_else(|| fault::choose_fault(&self.options.faults, self.options.seed, &id));
        let tokens = job.prompts.iter().map(Vec::len).sum::<usize>();
        tap.borrow_mut().update_truth(|truth| {
            truth.prompt_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            truth.fault = fault.map(|fault| fault.to_string());
        });
        if let Some(response) = apply_early_fault(fault, &tap).await? {
            return Ok(complete_response(&tap, response));
        }
        let tickets: Vec<Ticket> = job.prompts.iter().map(|prompt| self.driver.submit_prompt(prompt)).collect();
        for mut ticket in tickets {
            ticket.wait_finished().await;
        }
        let body = endpoint.response_body(&job, &id, self.unix_seconds(), self.options.seed);
        Ok(complete_response(&tap, json_response(StatusCode::OK, &body)))
    }

    /// Starts the truth log line of a request that was read completely.
    fn record_received(&self, id: &str, tap: &SharedTap) {
        let received = self.clock.to_unix(self.clock.now());
        tap.borrow_mut().begin_request(Truth { request_id: id.to_owned(), received, ..Truth::default() });
    }

    /// The client's `x-request-id`, or a generated id.
    fn request_id(&self, request: &Request<Incoming>) -> String {
        let given = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
        given.filter(|id| !id.is_empty()).map_or_else(
            || {
                let number = self.generated_ids.replace(self.generated_ids.get() + 1);
                format!("vb-sim-{number}")
            },
            str::to_owned,
        )
    }

    fn unix_seconds(&self) -> u64 {
        self.clock.to_unix(self.clock.now()).0 / SECOND
    }
}

/// Applies a fault that acts before the response or replaces it. `None`: the response follows.
async fn apply_early_fault(
    fault: Option<Fault>,
    tap: &SharedTap,
) -> Result<Option<Response<ResponseBody>>, ConnectionDropped> {
    let Some(Fault { kind, n }) = fault else { return Ok(None) };
    let page = "<html><head><title>Bad Gateway</title></head><body><h1>upstream error</h1></body></html>\n";
    let html = Some("text/html; charset=utf-8");
    Ok(match kind {
        FaultKind::CloseBeforeHeaders => return Err(ConnectionDropped),
        FaultKind::ResetBeforeHeaders => {
            tap.borrow_mut().reset_when_closed();
            return Err(ConnectionDropped);
        }
        FaultKind::NeverAnswer => std::future::pending().await,
        FaultKind::SlowHeaders => {
            tokio::time::sleep(Nanos(u64::from(n) * 1_000_000).to_duration()).await;
            None
        }
        FaultKind::Html500 => Some(text_response(StatusCode::INTERNAL_SERVER_ERROR, html, page.into())),
        FaultKind::Html200 => Some(text_response(StatusCode::OK, html, page.into())),
        _ => kind.error_status().map(|(code, name)| status_response(code, name)),
    })
}

fn status_response(code: u16, name: &str) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = match status {
        StatusCode::UNAUTHORIZED => json!({"error": "Unauthorized"}),
        _ => error_body(code, name, None, &format!("vb-sim was asked to answer with {code}")),
    };
    let mut response = json_response(status, &body);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A valid generation request and everything that its response needs.
struct Generation<'a> {
    server: &'a SimServer,
    api: GenerationApi,
    request: GenerationRequest,
    id: String,
    fault: Option<Fault>,
    tap: SharedTap,
}

impl Generation<'_> {
    fn finish_reason(&self) -> &'static str {
        match &self.request.tool {
            _ if self.request.length.ignore_eos && !self.has_fault(FaultKind::Empty) => "length",
            Some(tool) if tool.any => "tool_calls",
            _ => "stop",
        }
    }

    fn has_fault(&self, kind: FaultKind) -> bool {
        self.fault.is_some_and(|fault| fault.kind == kind)
    }

    /// Queues the request at the engine. A request with the fault `empty` has no output, so the engine is not needed.
    fn submit_to_engine(&self) -> (Vec<Rc<[u32]>>, Tickets) {
        let Generation { server, request, .. } = self;
        let (mut outputs, mut tickets) = (Vec::new(), Tickets { all: Vec::new(), n: request.n });
        for prompt in &request.prompts {
            for choice in 0..request.n as u64 {
                if self.has_fault(FaultKind::Empty) {
                    outputs.push(Rc::new([]) as Rc<[u32]>);
                    continue;
                }
                let seed = server.options.seed;
                let output: Rc<[u32]> = server.vocabulary.generate_output(seed, prompt, choice, request.length).into();
                let stops = output.last() == Some(&END_OF_TEXT);
                tickets.all.push(server.driver.submit_request(prompt, Rc::clone(&output), stops));
                outputs.push(output);
            }
        }
        (outputs, tickets)
    }

    fn stream_response(self) -> Response<ResponseBody> {
        let (outputs, tickets) = self.submit_to_engine();
        let finish_reason = self.finish_reason();
        let dialect = self.api.new_dialect(self.response_meta());
        let content_type = dialect.stream_content_type();
        let script = Script::new(StreamPlan {
            dialect,
            vocabulary: Rc::clone(&self.server.vocabulary),
            outputs,
            finish_reason,
            tool: self.request.tool.map(|tool| tool.name),
            logprobs: self.request.logprobs,
            tokens_per_chunk: self.server.options.tokens_per_chunk as usize,
            include_usage: self.request.include_usage || !self.api.is_openai(),
            fault: self.fault,
        });
        self.tap.borrow_mut().update_truth(|truth| {
            truth.status = Some(200);
            // The planned reason. If the stream ends early, `Tickets::fill_truth` removes it.
            truth.finish_reason = Some(finish_reason.into());
        });
        let body = Either::Right(EventStream::new(script, tickets, self.tap));
        response_with_type(StatusCode::OK, Some(content_type), body)
    }

    fn response_meta(&self) -> ResponseMeta {
        ResponseMeta {
            request_id: self.id.clone(),
            created: self.server.unix_seconds(),
            model: self.request.model.clone(),
            prompt_tokens: self.request.prompt_tokens(),
            max_tokens: self.request.length.max_tokens,
            continuous_usage: self.request.continuous_usage && !self.has_fault(FaultKind::NoUsage),
            prompt_ids: self.request.return_token_ids.then(|| self.request.prompts.clone()),
            n: self.request.n,
            total_choices: self.request.prompts.len() * self.request.n,
        }
    }

    async fn full_response(self) -> Response<ResponseBody> {
        let (outputs, mut tickets) = self.submit_to_engine();
        if !tickets.all.is_empty() {
            tickets.wait_finished().await;
            self.tap.borrow_mut().update_truth(|truth| {
                truth.finish_reason = Some(self.finish_reason().into());
                tickets.fill_truth(truth);
            });
        }
        let tokens = u32::try_from(outputs.iter().map(|output| output.len()).sum::<usize>()).unwrap_or(u32::MAX);
        self.tap.borrow_mut().queue_chunk(tokens);
        let mut dialect = self.api.new_dialect(self.response_meta());
        dialect.set_cached_tokens(tickets.cached_tokens());
        let body = dialect.full_response(FullOutput {
            outputs: &outputs,
            vocabulary: &self.server.vocabulary,
            generated_tokens: tokens,
            finish_reason: self.finish_reason(),
            tool: self.request.tool.as_ref().map(|tool| tool.name.as_str()),
            logprobs: self.request.logprobs,
            include_usage: !self.has_fault(FaultKind::NoUsage),
        });
        complete_response(&self.tap, json_response(StatusCode::OK, &body))
    }
}

/// Records a response that hyper gets as a whole, so that its truth log line is complete.
fn complete_response(tap: &SharedTap, response: Response<ResponseBody>) -> Response<ResponseBody> {
    let mut tap = tap.borrow_mut();
    tap.update_truth(|truth| truth.status = Some(response.status().as_u16()));
    tap.mark_complete();
    drop(tap);
    response
}

/// Reads a body whose `content-type` must be JSON.
async fn read_json_body(request: Request<Incoming>) -> Result<Bytes, ApiError> {
    let media_type = content_type(&request).split(';').next().unwrap_or_default();
    let is_json = media_type.trim().eq_ignore_ascii_case("application/json");
    let body = read_body(request).await?;
    if is_json { Ok(body) } else { Err(request::unsupported_media_type()) }
}

async fn read_body(request: Request<Incoming>) -> Result<Bytes, ApiError> {
    let body = request.into_body().collect().await.map_err(|e| ApiError::bad_request(None, &e.to_string()))?;
    Ok(body.to_bytes())
}

fn content_type(request: &Request<Incoming>) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn json_response(status: StatusCode, body: &Value) -> Response<ResponseBody> {
    text_response(status, Some("application/json"), body.to_string())
}

fn text_response(status: StatusCode, content_type: Option<&'static str>, body: String) -> Response<ResponseBody> {
    response_with_type(status, content_type, Either::Left(Full::new(body.into())))
}

fn response_with_type(
    status: StatusCode,
    content_type: Option<&'static str>,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("vb-sim"));
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}
