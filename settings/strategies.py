"""The strategies that choose what to keep: one registry for settings, help, figures and the page."""

#: name -> what it does, in a few words (help, error messages, the web page)
STRATEGIES = {
    "random": "tokens at random",
    "block": "rectangles that grow from random places",
    "half": "rows from the bottom",
    "outpaint": "from the border inwards",
    "direct": "the surest first, ranked once",
    "selective": "keep the least sure one by one, from the centre on",
    "additive": "keep the least sure, a few at a time",
    "surprisal": "keep the most surprising, ranked once",
    "greedy-surprisal": "keep the most surprising, given what is kept",
    "distortion": "keep what is farthest from what is expected",
    "painted": "keep what would be painted most wrong",
    "adaptive": "keep what helps most to paint the whole picture",
}
#: Their pattern does not depend on the picture, so positions need not be stored.
FIXED = ("random", "block", "half", "outpaint")
#: Their pattern is drawn, so several seeds say more.
DRAWN = ("random", "block")
