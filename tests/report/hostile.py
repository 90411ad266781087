"""Texts that a page must show and never obey, and a run in which every text from outside is one of them."""

from pipeline_engine.values import (
    BreakerChanged,
    Completed,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    Failed,
    Fault,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
    Stopped,
)

PAYLOADS = [
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "</script><svg onload=alert(1)>",
    "\"><b x='",
    "' onmouseover='alert(1)",
    '" style="background:url(//evil.example)" x="',
    "--><!--",
    "]]><![CDATA[",
    "&lt;b&gt;&#60;b&#62;",
    "javascript:alert(1)",
    "$pipeline ${verdict} $$ {0} %s",
    "\x1b[31m\u202etxt.exe\u200b\ud800\x00",
    "</style><base href=//evil.example>",
    "<a href=https://evil.example>click</a>",
    "a\nb\r\nc\u2028d",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<object data=javascript:alert(1)>",
    "<embed src=//evil.example/x.swf>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example><input name=q autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<audio src=//evil.example/x.mp3 autoplay>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<textarea autofocus onfocus=alert(1)>",
    "<select onchange=alert(1)><option>1</select>",
    "<marquee onstart=alert(1)>",
    "<style>@import '//evil.example/x.css';</style>",
    "<svg><style>*{background:url(//evil.example)}</style></svg>",
    "<svg><foreignObject><script>alert(1)</script></foreignObject></svg>",
    "<svg><a xlink:href=javascript:alert(1)><text>x</text></a></svg>",
    "<svg><use href=data:image/svg+xml,x#y /></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "</text></svg><script>alert(1)</script>",
    "</td></tr></table><script>alert(1)</script>",
    "</dd></dl><h1>owned</h1>",
    "</main><main>",
    "<!--<script>",
    "<script",
    "<ScRiPt>alert(1)</sCrIpT>",
    "<%00script>alert(1)</script>",
    "＜script＞alert(1)＜/script＞",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "&#x3C;script&#x3E;alert(1)&#x3C;/script&#x3E;",
    "`${alert(1)}`",
    "'-alert(1)-'",
    '";alert(1);//',
    "*/alert(1)/*",
    "{{constructor.constructor('alert(1)')()}}",
    "__proto__",
    "constructor",
    "url(javascript:alert(1))",
    "expression(alert(1))",
    "data:text/html,<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example","x")',
    "\u2066\u202e\u2069 gnp.exe",
    "x" * 5_000,
]
"""Sixty and a few ways out of a text: of an element, an attribute, a style, a script, a comment, a template."""


def run_with(record_stream, text, *, suffix="", end=5):
    """Return a run in which every field that comes from outside is `text`."""

    def name(kind):
        return f"{text}{kind}{suffix}"

    run = record_stream(pipeline=text, document=text, run_id=text, inputs=(name("input"),))
    run.declare(name("a")).declare(name("b"), name("a"), each=name("a")).declare(name("c"), name("b"))
    run.declare(name("d"), name("a"), is_on_demand=True).declare(name("e"), name("a"))
    fault = Fault(text, text, True, 500)
    run.ready(0, name("a")).attempt(name("a"), 0, 1, model=text, fault=fault, usage=(3, 4))
    run.wait(name("a"), 1, 2, "fallback").simple(name("d"), 1, 1, 2, name("a"), model=text)
    run.finish(2, name("a"), Completed(text, via=f"fallback:{name('d')}"))
    run.ready(2, name("b"), name("a"), width=2).simple(name("b"), 2, 2, 3, name("a"), item=0, model=text)
    run.ready(2, name("b"), name("a"), item=1).attempt(name("b"), 2, 4, item=1, model=text)
    run.finish(4, name("b"), Dropped(ValueError(text)), item=1).finish(4, name("b"))
    run.ready(4, name("c"), name("b")).attempt(name("c"), 4, 5, model=text)
    run.finish(5, name("c"), Failed(ValueError(text)))
    run.finish(5, name("e"), Stopped(text))
    run.write(LimitChanged(1, text, 2), LimitChanged(2, text, 3), CooldownStarted(1, text, 3))
    run.write(BreakerChanged(1, text, text, text), BreakerChanged(3, text, text, text), CredentialParked(3, text))
    run.write(OutputJudged(1, name("a"), None, text, True), HedgeStarted(1, name("a"), None, 1, text))
    run.write(HedgeFinished(1, name("a"), None, 1, text, True, Cost(0.5)))
    return run.trace(end, "partial")
