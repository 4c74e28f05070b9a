//! Where weft-proxy and Envoy 1.40 differ, and why ours is right.

const OPTIONAL_BLANK: &str =
    "RFC 9112 7.1 has no blanks at the end of a size line; only before an extension, where we take them";
const SIXTEEN_DIGITS: &str = "more digits than any length has overflow somewhere behind us";
const CONTROL_IN_EXTENSION: &str = "a control character in an extension is where two readers part ways";
const EXTENSION_BUDGET: &str =
    "16 KiB of extensions and trailers per body: they carry nothing and cost work (CVE-2023-39326)";
const BARE_LF: &str =
    "a bare LF is a line end to one reader and not to the next; forwarding by a guess is smuggling's start";
const BARE_CR: &str = "Envoy takes the CR out and forwards the rest; the sender is broken or hostile, and refused (RFC 9112 2.2)";
const CHUNK_SPILL: &str =
    "data longer than its chunk (the SPILL class): Envoy takes what follows for the line end";
const FOLDED: &str = "RFC 9112 5.2 lets a server refuse folded lines; nginx does too";
const NOMINATED_LENGTH: &str =
    "Envoy drops a nominated Content-Length and sends chunks; nominating the framing changes nothing with us";
const HOP_FIELD: &str = "a field about this hop only, whether Connection nominates it or not";
const EXPECTATION: &str = "RFC 9110 10.1.1: an expectation that is not known is answered 417; one that is repeated is no expectation";
const HTTP_1_0: &str = "HTTP/1.0 is valid and passes always; Envoy wants accept_http_10, whose absence nobody can tell from false";
const HOST: &str = "RFC 9112 3.2: exactly one Host, with a host and at most a port in it";
const ABSOLUTE_HOST: &str =
    "RFC 9112 3.2: Host must be there and valid beside an absolute target too, although the target's counts";
const USER_INFORMATION: &str =
    "RFC 9110 4.2.4: user information in an http URI is an error; it serves to disguise the host";
const EMPTY_LINES: &str =
    "RFC 9112 2.2 asks to overlook one CRLF before a request, not more and not a bare LF";
const BROKEN_ESCAPE: &str = "a percent sign without two digits has no normal form; nginx refuses it too";
const REQUEST_LINE: &str =
    "RFC 9112 3: single spaces between three words; anything else is split differently by different readers";
const NOT_ENCODED: &str = "Envoy percent-encodes what RFC 3986 does not allow in paths; we route and forward the same bytes, as HAProxy and nginx do";
const OWN_METHOD: &str = "RFC 9110 9.1: methods are extensible; Envoy wants allow_custom_methods";
const MANY_TRAILERS: &str = "100 fields of trailers, as for headers";
const ABSOLUTE_QUERY: &str = "RFC 9112 3.2.1: an empty path is /; Envoy makes the path ?q and finds no route";
const CODING_IN_1_0: &str = "RFC 9112 6.1: Transfer-Encoding in HTTP/1.0 is faulty framing";
const HELD_BACK: &str = "both break the connection; with us the head had not been sent yet, because data and head go out together";
const STATUS: &str = "RFC 9110 15: three digits, 100 to 599; no client knows what to do with another";
const VERSION: &str =
    "RFC 9112 2.3: what says HTTP/2 or HTTP/1.2 on an HTTP/1.1 connection does not know what it says";
const UNASKED: &str =
    "nobody asked for another protocol; Envoy passes the 101 on, and the client waits for ever";
const INTERIM_FLOOD: &str = "at most 16 interim responses; Envoy swallows any number of them";
const LARGE_HEAD: &str = "60 KiB for heads of responses too, as HAProxy and nginx limit them";

/// By case; see `tests/corpus/http1/requests`.
pub(super) const REQUESTS: &[(&str, &str)] = &[
    ("chunks/size-space-after", OPTIONAL_BLANK),
    ("chunks/size-tab-after", OPTIONAL_BLANK),
    ("chunks/size-many-zeros", SIXTEEN_DIGITS),
    ("chunks/extension-nul", CONTROL_IN_EXTENSION),
    ("chunks/extension-64-kib", EXTENSION_BUDGET),
    ("chunks/extensions-many", EXTENSION_BUDGET),
    ("chunks/end-bare-lf", BARE_LF),
    ("chunks/end-spill", CHUNK_SPILL),
    ("chunks/last-line-bare-lf", BARE_LF),
    ("coding/hidden-by-bare-cr", BARE_CR),
    ("coding/folded", FOLDED),
    ("coding/hidden-by-bare-lf", BARE_LF),
    ("framing/nominated-length", NOMINATED_LENGTH),
    ("length/in-connection-list", NOMINATED_LENGTH),
    ("hops/te-trailers", HOP_FIELD),
    ("hops/h2c-not-nominated", HOP_FIELD),
    ("hops/expect-other", EXPECTATION),
    ("hops/expect-list", EXPECTATION),
    ("hops/expect-twice", EXPECTATION),
    ("hops/expect-obfuscated", EXPECTATION),
    ("hops/upgrade-in-1.0", HTTP_1_0),
    ("hops/expect-in-1.0", HTTP_1_0),
    ("host/empty", HOST),
    ("host/twice-equal", HOST),
    ("host/twice-different", HOST),
    ("host/userinfo", USER_INFORMATION),
    ("host/port-word", HOST),
    ("host/port-large", HOST),
    ("host/two-ports", HOST),
    ("host/bracket-open", HOST),
    ("host/bracket-inside", HOST),
    ("host/absolute-without-host", ABSOLUTE_HOST),
    ("host/absolute-with-bad-host", ABSOLUTE_HOST),
    ("host/absolute-with-two-hosts", ABSOLUTE_HOST),
    ("lines/all-bare-lf", BARE_LF),
    ("lines/request-line-bare-lf", BARE_LF),
    ("lines/field-bare-lf", BARE_LF),
    ("lines/end-bare-lf", BARE_LF),
    ("lines/bare-cr-in-value", BARE_CR),
    ("lines/folded", FOLDED),
    ("lines/folded-tab", FOLDED),
    ("lines/folded-host", FOLDED),
    ("lines/bare-lf-first", EMPTY_LINES),
    ("lines/two-empty-lines-first", EMPTY_LINES),
    ("paths/broken-escape", BROKEN_ESCAPE),
    ("paths/short-escape", BROKEN_ESCAPE),
    ("paths/lone-percent", BROKEN_ESCAPE),
    ("paths/unicode-escape", BROKEN_ESCAPE),
    ("target/two-spaces", REQUEST_LINE),
    ("target/two-spaces-before-version", REQUEST_LINE),
    ("target/space-at-end", REQUEST_LINE),
    ("target/tab", REQUEST_LINE),
    ("target/quote", NOT_ENCODED),
    ("target/angle", NOT_ENCODED),
    ("target/caret", NOT_ENCODED),
    ("target/backtick", NOT_ENCODED),
    ("target/braces", NOT_ENCODED),
    ("target/absolute-userinfo", USER_INFORMATION),
    ("target/method-long", OWN_METHOD),
    ("trailers/folded", FOLDED),
    ("trailers/bare-lf", BARE_LF),
    ("trailers/many", MANY_TRAILERS),
    ("valid/own-method", OWN_METHOD),
    ("valid/http-1.0", HTTP_1_0),
    ("valid/http-1.0-keep-alive", HTTP_1_0),
    ("valid/http-1.0-without-host", HTTP_1_0),
    ("valid/http-1.0-post", HTTP_1_0),
    ("valid/absolute-form-query", ABSOLUTE_QUERY),
];

/// By case; see `tests/corpus/http1/responses`.
pub(super) const RESPONSES: &[(&str, &str)] = &[
    ("framing/chunked-in-1.0", CODING_IN_1_0),
    ("framing/bare-lf-in-chunk-size", HELD_BACK),
    ("framing/bad-chunk-size", HELD_BACK),
    ("heads/status-600", STATUS),
    ("heads/status-999", STATUS),
    ("heads/status-1000", STATUS),
    ("heads/version-2.0", VERSION),
    ("heads/version-1.2", VERSION),
    ("heads/bare-lf", BARE_LF),
    ("heads/folded", FOLDED),
    ("heads/bare-cr-in-value", BARE_CR),
    ("heads/switching-unasked", UNASKED),
    ("heads/interim-flood", INTERIM_FLOOD),
    ("heads/head-70-kb", LARGE_HEAD),
];
