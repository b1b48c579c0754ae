"""The subjects of the larger world: pictures of the Noto Color Emoji font that read at once as their word."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """One thing of the emoji font: its character, its plural, other words for it, and the colour it always has."""

    emoji: str
    plural: str
    synonyms: tuple[str, ...] = ()
    colour: str = ""


def _subjects(table: str) -> dict[str, Subject]:
    """Rows of "word, code point, plural (-: word + s), colour (-: none), synonyms"."""
    found: dict[str, Subject] = {}
    for row in table.strip().splitlines():
        word, code, plural, colour, *synonyms = row.split()
        found[word] = Subject(
            chr(int(code, 16)),
            word + "s" if plural == "-" else plural,
            tuple(synonym.replace("_", " ") for synonym in synonyms),
            "" if colour == "-" else colour,
        )
    return found


MANY: dict[str, Subject] = _subjects("""
    cat        1F431  -            yellow  kitten kitty
    dog        1F436  -            -       puppy
    panda      1F43C  -            -       panda_bear
    fox        1F98A  foxes        orange
    lion       1F981  -            -
    tiger      1F42F  -            orange
    bear       1F43B  -            brown   brown_bear
    rabbit     1F430  -            -       bunny
    pig        1F437  -            pink    piglet
    cow        1F42E  -            -
    monkey     1F435  -            brown
    frog       1F438  -            green   toad
    horse      1F434  -            brown   pony
    unicorn    1F984  -            white
    zebra      1F993  -            -
    giraffe    1F992  -            yellow
    elephant   1F418  -            grey
    penguin    1F427  -            -
    owl        1F989  -            brown
    chick      1F425  -            yellow  baby_chicken
    duck       1F986  -            -       mallard
    parrot     1F99C  -            green
    flamingo   1F9A9  flamingos    pink
    bird       1F426  -            blue    bluebird
    fish       1F41F  fish         blue
    octopus    1F419  octopuses    red
    crab       1F980  -            orange
    turtle     1F422  -            green   tortoise
    snail      1F40C  -            -
    bee        1F41D  -            yellow  bumblebee
    butterfly  1F98B  butterflies  orange
    ladybug    1F41E  -            red     ladybird
    whale      1F433  -            blue
    snake      1F40D  -            green
    dinosaur   1F996  -            green   t-rex
    squirrel   1F43F  -            brown
    apple      1F34E  -            red
    banana     1F34C  -            yellow
    pear       1F350  -            green
    lemon      1F34B  -            yellow
    strawberry 1F353  strawberries red
    grapes     1F347  grapes       purple
    watermelon 1F349  -            -       melon
    pineapple  1F34D  -            yellow
    carrot     1F955  -            orange
    pumpkin    1F383  -            orange  jack-o'-lantern
    mushroom   1F344  -            red     toadstool
    cheese     1F9C0  cheeses      yellow
    egg        1F95A  -            -
    pizza      1F355  -            -       slice_of_pizza
    burger     1F354  -            -       hamburger
    donut      1F369  -            -       doughnut
    cake       1F382  -            -       birthday_cake
    cupcake    1F9C1  -            -       muffin
    tree       1F333  -            green
    palm       1F334  -            -       palm_tree
    cactus     1F335  cacti        green
    flower     1F338  -            pink    blossom
    sunflower  1F33B  -            yellow
    tulip      1F337  -            pink
    rose       1F339  -            red
    house      1F3E0  -            -       home
    castle     1F3F0  -            grey
    tent       26FA   -            orange
    car        1F697  -            red     automobile
    bus        1F68C  buses        -
    tractor    1F69C  -            green
    train      1F682  -            -       locomotive
    bicycle    1F6B2  -            -       bike
    plane      2708   -            -       airplane
    rocket     1F680  -            -       spaceship
    boat       26F5   -            -       sailboat
    ship       1F6A2  -            -       steamer
    balloon    1F388  -            red
    sun        1F31E  -            yellow
    cloud      2601   -            white
    rainbow    1F308  -            -
    snowman    26C4   snowmen      white
    umbrella   2602   -            purple
    fire       1F525  fires        orange  flame
    football   26BD   -            -       soccer_ball
    basketball 1F3C0  -            orange
    guitar     1F3B8  -            red
    drum       1F941  -            -
    trumpet    1F3BA  -            yellow
    book       1F4D5  -            red
    clock      23F0   -            red     alarm_clock
    key        1F511  -            yellow
    crown      1F451  -            yellow
    hat        1F3A9  -            black   top_hat
    gift       1F381  -            -       present
    bell       1F514  -            yellow
    camera     1F4F7  -            -
    robot      1F916  -            -
    ghost      1F47B  -            white
    anchor     2693   -            -
    trophy     1F3C6  trophies     yellow
""")
