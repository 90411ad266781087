"""Words: how a text is cut into them, which of them carry no content, and when two of them are one."""

from __future__ import annotations

import re

__all__ = [
    "GENERIC_WORDS",
    "LEADING_WORDS",
    "ORDINARY_VERBS",
    "STOP_WORDS",
    "WEAK_WORDS",
    "content_stems",
    "name_words",
    "shortened",
    "stem",
    "words_of",
]

_WORD = re.compile(r"[^\W\d_][\w'’.+#-]*")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MAX_WORD = 40  # what is longer is a hash, a path or noise

STOP_WORDS = frozenset(
    re.findall(
        r"[\w']+",
        """
        a about above across after again against ago all almost along already also although always am among an and
        another any anybody anyone anything anyway are aren't around as at away back be became because become becomes
        been before being below beside besides between beyond both but by came can can't cannot come could couldn't
        did didn't do does doesn't doing don't done down due during each either else elsewhere enough etc even ever
        every everyone everything except few fewer for from further furthermore get gets getting give given gives go
        goes going gone got had hadn't has hasn't have haven't having he hence her here herself him himself his how
        however i i'd i'll i'm i've ie eg if in indeed instead into is isn't it it's its itself just keep kept last
        later least less let let's like likely made mainly make makes making many may maybe me might mine more
        moreover most mostly much must my myself namely near nearly neither never nevertheless next no nobody none nor
        not nothing now nowhere of off often on once one ones only onto or other others otherwise ought our ours
        ourselves out over own per perhaps please quite rather really same say see seem seemed seems seen several
        shall she should shouldn't since so some somebody somehow someone something sometimes somewhere soon still
        such than that that's the their theirs them themselves then thence there there's thereby therefore these they
        they're thing things this those though three through throughout thus till to together too took toward towards
        two under unless unlike until up upon us use used useful user's uses using usually various very via was wasn't
        way ways we we'd we'll we're we've well went were weren't what whatever what's when whenever where whereas
        whereby wherein wherever whether which while who whoever whole whom whose why will with within without won't
        would wouldn't yes yet you you'd you'll you're you've your yours yourself yourselves vs able being's
        """,
    )
)
"""English words that carry grammar and no content."""

WEAK_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        access accept accepts act add added adding adds additional additionally affect allow allowed allowing allows
        alternative alternatively alternatives answer appear appears apply applied applies appropriate approach
        approaches arbitrary ask asked aspect author authors available avoid avoids bad based basic basically become
        begin behave behaviour behavior best better big bit both brief bring called calling calls care cases cause
        certain change changed changes choose chosen clear clearly close combine common commonly complete completely
        consider considered consist consists contain contained containing contains correct corresponding course create
        created creates creating current currently day days deal define defined defines defining depend depending
        depends describe described describes desired detail details determine did differ difference differences
        different difficult discuss discussed discussion easier easily easy effect effectively end ends ensure ensures
        entire equal especially exact exactly example examples exist existing exists expect expected explain explicit
        explicitly extra fact far feel find fine first fix follow followed following follows form found four five
        fully future generally generate generated good great handle handled happen happens hard help helps hold holds
        idea ideally imagine immediately imply important impossible improve include included includes including
        indicate initial initially instance intend intended interesting introduce introduced introduces involve issues
        kind kinds know known knows larger later lead leads learn leave left lines little longer look looks lot main
        major manner matter mean meaning means mention mentioned merely method minor modern named naturally
        necessarily necessary need needed needing needs new nice normal normally note noted notes obvious occur occurs
        offer old opposed option optional original paper particular particularly parts people perform person place
        plain point points possibility possible possibly potential potentially practice precise prefer present prevent
        previous previously primarily prior probably problems produce produced produces proper properly propose
        proposed proposes proposal provide provided provides providing purpose put questions quick quickly quit raise
        raised raises read reader readers ready real reason reasonable reasons receive receives recent recently refer
        referred refers related relevant rely remain remains remove removed repeat replace replaced represent
        represents require required requires requiring respect respectively rest result resulting results return
        returned returning returns right run running runs sections sense separate serve sets setting show showing
        shown shows similarly simple simpler simply situation size so-called solution solve sort sound specifically
        specified specify stand start started starting starts stated stay stop straightforward strictly style suggest
        suggested suitable support supported supporting supports sure take taken takes taking talk tell text think
        third today total tried true false try trying turn typically unable understand unfortunately usual valid want
        wanted wants wide widely word words worked working works world worse worst worth write writes writing written
        wrong year years yesterday tomorrow abstract introduction overview motivation rationale background conclusion
        summary appendix footnote chapter figure hence second hour hours minute minutes week weeks month months monday
        tuesday wednesday thursday friday saturday sunday january february march april june july august september
        october november december http https www com org html enable enables enabled enabling implement implements
        implemented implementing accompany adopt reuse six seven eight nine ten eleven twelve fifteen
        twenty thirty forty fifty hundred hundreds thousand thousands million millions dozen dozens half twice readme
        changelog null nil none self cls foo bar baz def elif await async import
        lambda yield struct impl const var func void bool str int todo fixme etc al
        """,
    )
)
"""Words too general for any keyword; a phrase ends where one stands."""

LEADING_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        standard open natural regular single multiple general individual full public large small short long high low
        special specific typical external internal similar
        """,
    )
)
"""Adjectives that may begin a phrase ("open source") but are no keyword and end none."""

GENERIC_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        access algorithm api application argument array attribute base behavior block body call case character class
        code collection command component configuration content context control copy core data default dependency
        design developer directory document documentation element engine entry environment error event expression
        feature field file flag format framework function group implementation index information input instance
        interface issue item job key language layer length level library line link list location log machine
        management member memory message metadata mode model module name node number object operation operator order
        output package page parameter parent part path pattern people performance plan platform policy position
        problem process processing product program project property protocol python query question range record
        reference release report request resource response result role root rule run scope script section server
        service session set software source space specification state statement status step storage string structure
        subject syntax system table target task team technique term test testing time token tool tree type unit update
        user value variable version view work
        """,
    )
)
"""Nouns that name a part of nearly everything: good in a phrase, poor keywords on their own (as stems)."""


ORDINARY_VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        agree announce arrive assert assume avoid bear belong bind borrow bother break bring built bury buy carry
        catch caught claim collect compare complain concern confirm connect consume continue convert count cover cross
        cut decide declare decline deliver demand deny destroy discover drew drop emit enter escape examine exceed
        excuse expand fail fall fell felt fetch fill finish fit flew forget forgot fought gather grew grow guess hang
        hear heard hide hit hope hurry hurt ignore inform insist invite join jump keep knew lay lie listen live load
        lose lost meet met miss move notice notify obey observe obtain open overlook owe own paid pass pay persuade
        pick pretend proceed prove pull push reach react realise realize recall recognise recognize recommend reduce
        refuse regret reject remember remind reply rise rose ran sat save search seek sell send sent settle shake
        share shift shut sit skip slept sold spend spent spoke spread stick stood struck submit succeed suffer supply
        suppose surprise survive swallow switch taught tear threw throw told touch travel treat trust unpack vanish
        vary visit wait wake warn wash waste watch wear win wish won wonder wore yell
        """,
    )
)
"""Verbs of everyday speech: good in a phrase ("wait time"), poor keywords on their own (as stems)."""


def words_of(text: str) -> list[str]:
    """Return the words of a text as written, without numbers and noise.

    Example:
        >>> words_of("Trio's clock, 2 nurseries.")
        ['Trio', 'clock', 'nurseries']
    """
    return [bare for word in _WORD.findall(text) if (bare := _bare(word)) and len(bare) <= _MAX_WORD]


def _bare(word: str) -> str:
    word = word.rstrip("'’.-").replace("’", "'")
    return word.removesuffix("'s")


def stem(word: str) -> str:
    """Return a word in lower case and without the ending of its plural.

    Example:
        >>> [stem(word) for word in ("Policies", "classes", "steps", "status", "analysis")]
        ['policy', 'class', 'step', 'status', 'analysis']
    """
    word = word.lower()
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    return word[:-1]


def content_stems(text: str) -> list[str]:
    """Return the stems of the words that carry content, in order and with repeats.

    Example:
        >>> content_stems("The clocks of a virtual clock")
        ['clock', 'virtual', 'clock']
    """
    return [stem(word) for word in words_of(text) if len(word) > 1 and word.lower() not in STOP_WORDS]


def name_words(name: str) -> list[str]:
    """Return the words of a name written in snake or camel case, in lower case.

    Example:
        >>> name_words("isUrgent"), name_words("due_date"), name_words("HTTPError")
        (['is', 'urgent'], ['due', 'date'], ['http', 'error'])
    """
    return [word.lower() for word in _CAMEL.findall(name[:200])]


def shortened(text: str, max_chars: int | None) -> str:
    """Return a text of at most `max_chars` characters, cut between words where it can be.

    Example:
        >>> shortened("Tea for two", 9)
        'Tea for…'
    """
    if max_chars is None or len(text) <= max_chars:
        return text
    if max_chars < 2:
        return text[:max_chars]
    cut = text[: max_chars - 1]
    whole = cut if text[max_chars - 1] == " " else cut.rpartition(" ")[0]
    return f"{(whole or cut).rstrip(' ,;:')}…"
