"""The embedded profile's blocklist: our own short lists by category, each form of a word spelt out.

They are a floor, not a claim of completeness. Words with an everyday meaning in front of a robot (a glue gun, to
shoot a photo, a knife in a kitchen) are left out on purpose. A hyphen or space matches any separator.
"""

BLOCKED: dict[str, tuple[str, ...]] = {
    "violence": (
        "behead", "beheads", "beheaded", "beheading", "beheadings", "bloodbath", "bloodshed", "decapitate",
        "decapitated", "decapitating", "decapitation", "disembowel", "disemboweled", "disembowelled", "dismember",
        "dismembered", "dismemberment", "gore", "gory", "homicide", "lynch", "lynched", "lynching",
        "maim", "maimed", "massacre", "massacred", "massacres", "murder", "murdered", "murderer", "murderers",
        "murdering", "murders", "mutilate", "mutilated", "mutilation", "slaughter", "slaughtered", "stab to death",
        "strangle", "strangled", "strangling", "torture", "tortured", "torturing",
    ),
    "sexual": (
        "erotic", "erotica", "fellatio", "fetish", "genital", "genitals", "hentai", "masturbate", "masturbating",
        "masturbation", "naked", "nude", "nudes", "nudity", "orgasm", "orgy", "penis", "porn", "porno",
        "pornographic", "pornography", "rape", "raped", "rapes", "raping", "rapist", "sex", "sexual", "sexually",
        "striptease", "topless", "undressing", "vagina", "xxx",
    ),
    "child_abuse": (
        "child abuse", "child porn", "child pornography", "child sex", "child sexual abuse", "csam", "lolicon",
        "molest", "molested", "molester", "molesting", "paedophile", "paedophilia", "pedophile", "pedophilia",
        "shotacon", "underage sex",
    ),
    "self_harm": (
        "commit suicide", "cut myself", "cutting herself", "cutting himself", "hang myself", "hanging herself",
        "hanging himself", "kill herself", "kill himself", "kill myself", "kill yourself", "killing myself",
        "self-harm", "self-harming", "self-mutilation", "slit wrists", "suicidal", "suicide", "suicides",
    ),
    "weapons": (
        "ak-47", "assault rifle", "assault rifles", "bomb", "bombing", "bombs", "car bomb", "chemical weapon",
        "chemical weapons", "explosive vest", "firearm", "firearms", "grenade", "grenades", "gunfire", "gunfight",
        "gunman", "gunmen", "gunshot", "gunshots", "handgun", "handguns", "improvised explosive", "machine gun",
        "machine guns", "molotov", "nerve gas", "pipe bomb", "pistol", "pistols", "sniper rifle", "submachine gun",
        "suicide vest",
    ),
    "drugs": (
        "cocaine", "crack pipe", "crystal meth", "ecstasy pills", "fentanyl", "heroin", "lsd", "mdma", "meth",
        "methamphetamine", "opium", "snorting coke",
    ),
    "hate": (
        "ethnic cleansing", "genocide", "heil hitler", "hitler", "ku klux klan", "kkk", "master race", "nazi",
        "nazis", "neo-nazi", "neo-nazis", "racial slur", "swastika", "swastikas", "white power",
        "white supremacist", "white supremacists", "white supremacy",
    ),
    "crime": (
        "arson", "arsonist", "carjacking", "hijack a plane", "hostage", "hostages", "human trafficking", "kidnap",
        "kidnapped", "kidnapper", "kidnapping", "mass shooting", "school shooting", "suicide bomber", "terrorism",
        "terrorist", "terrorists",
    ),
}  # fmt: skip
