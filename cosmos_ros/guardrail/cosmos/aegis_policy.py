"""The safety policy that Aegis judges a prompt by: the categories of Ghosh et al., "AEGIS" (arXiv:2404.05993).

Numbers, names, order and the frame of the question are those that Cosmos-1.0-Guardrail uses; there is no O9. What is
said about each category is said in our own words: the model was tuned to take its policy from the question.
"""

from __future__ import annotations

CATEGORIES: dict[str, str] = {
    "O1": "Violence",
    "O2": "Sexual",
    "O3": "Criminal Planning/Confessions",
    "O4": "Guns and Illegal Weapons",
    "O5": "Controlled/Regulated Substances",
    "O6": "Suicide and Self Harm",
    "O7": "Sexual (minor)",
    "O8": "Hate/Identity Hate",
    "O10": "Harassment",
    "O11": "Threat",
    "O12": "Profanity",
}

_RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # category: (what it must not, what it may)
    "O1": (
        (
            "Plan violence, or call on anybody to commit it.",
            "Show or describe violence so vividly that it distresses the reader.",
        ),
        ("Inform about violence, or discuss it, in history for example.",),
    ),
    "O2": (
        (
            "Be erotic, or invite to sexual activity.",
            "Promote sexual activity that is against the law.",
        ),
        ("Inform about sexuality, sexual health or sexual education.",),
    ),
    "O3": (
        (
            "Help to plan a crime such as theft, kidnapping or fraud, above all where it might be carried out.",
            "Encourage or excuse crime.",
            "Confess a crime that was committed or is about to be.",
        ),
        (
            "Explain how crimes happen, without the detail that a plan would need.",
            "Explain how crime is prevented, without the detail that would defeat it.",
        ),
    ),
    "O4": (
        (
            "Help to plan or commit a crime with firearms or other illegal weapons.",
            "Encourage such crimes, or approve of them.",
            "Tell how to make, get or use illegal weapons, biological and chemical ones included.",
        ),
        ("Discuss firearms, and what speaks for or against owning them.",),
    ),
    "O5": (
        (
            "Encourage or help to trade, take or misuse drugs, tobacco, alcohol, cannabis or the like.",
            "Tell how to make such substances where that is against the law.",
        ),
        ("Inform about such substances, what they are and do, without steps by which to make them.",),
    ),
    "O6": (
        (
            "Encourage people to harm themselves.",
            "Make self-harm or suicide look romantic or right.",
            "Tell methods of suicide or self-harm, or tell of the intent.",
        ),
        (
            "Give general facts about self-harm and suicide.",
            "Point people who might harm themselves to help.",
        ),
    ),
    "O7": (
        (
            "Sexualise minors in any way, in words or pictures.",
            "Plan or encourage sexual contact with a minor, ask one for private information, or arrange to meet.",
            "Encourage or help the abuse, grooming or trafficking of children.",
        ),
        ("Inform about sex education for schools.",),
    ),
    "O8": (
        (
            "Demean people, or show hatred, for their race, colour, ethnicity, religion, origin, sexual orientation, "
            "gender, gender identity, caste or disability.",
            "Call for discrimination on such grounds, or use slurs.",
            "Be so distasteful or hateful that it causes others grief, anger or fear.",
        ),
        (
            "Inform about discrimination, or discuss it, in history for example.",
            "Speak of groups neutrally, or of hatred without spreading it.",
        ),
    ),
    "O10": (
        (
            "Torment, bully or annoy somebody in real life, or make that likelier.",
            "Single somebody out, or retaliate, for a protected characteristic.",
            "Insult, objectify or humiliate somebody.",
            "Promise or threaten anything in answer to harassment.",
        ),
        ("Inform about harassment, or discuss what it does.",),
    ),
    "O11": (
        (
            "Tell somebody of the intent to harm them, or to make them suffer a loss.",
            "Intimidate, or put somebody in fear of injury.",
            "Help to injure, damage or extort.",
        ),
        ("Inform about what threats are.",),
    ),
    "O12": (
        ("Contain swear words, curses or other obscene language, whether or not it is aimed at anybody.",),
        (),
    ),
}


INDENT = " " * 8  # before most lines of the frame, as published; no word of the policy but its first has it


def question(prompt: str) -> str:
    """What the model is asked about a prompt, in Llama Guard's form (Inan et al., arXiv:2312.06674)."""
    policy = "".join(map(_rules, CATEGORIES))
    return (
        "[INST] Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy "
        f"with the below categories.\n\n{INDENT}<BEGIN UNSAFE CONTENT CATEGORIES>\n"
        f"{INDENT}{policy}\n{INDENT}<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"{INDENT}<BEGIN CONVERSATION>\n\n{INDENT}User: {prompt}\n\n<END CONVERSATION>\n\n"
        f"{INDENT}Provide your safety assessment for User in the above conversation:\n"
        f"{INDENT}- First line must read 'safe' or 'unsafe'.\n"
        f"{INDENT}- If unsafe, a second line must include a comma-separated list of violated categories. [/INST]"
    )


def _rules(category: str) -> str:
    must_not, may = _RULES[category]
    lines = [f"{category}: {CATEGORIES[category]}.", "Should not", *(f"- {rule}" for rule in must_not)]
    if may:
        lines += ["Can", *(f"- {rule}" for rule in may)]
    return "\n".join(lines) + "\n"
