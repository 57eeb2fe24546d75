"""Names the things that the drawn data sets show, and puts their names into sentences."""

# a hundred things that look unlike one another and can be counted
THINGS = (
    "wolf fox cat lion tiger horse zebra cow pig camel giraffe elephant mouse rabbit bear koala panda penguin duck "
    "owl swan frog crocodile turtle snake whale dolphin shark octopus snail butterfly ant spider rose sunflower tulip "
    "cactus mushroom banana pineapple strawberry lemon watermelon pear tomato carrot potato onion avocado coconut "
    "pretzel hamburger pizza taco sandwich cookie doughnut lollipop croissant teapot bus ambulance taxi tractor "
    "motorcycle bicycle airplane helicopter rocket sailboat canoe locomotive house castle church tent balloon trophy "
    "basketball kite guitar violin trumpet drum camera television laptop telephone candle pencil hammer key bomb "
    "umbrella crown bell chair toilet door star"
).split()
# whose plural follows none of the rules in ``plural``
IRREGULAR = {
    "wolf": "wolves", "mouse": "mice", "goose": "geese", "tomato": "tomatoes", "potato": "potatoes",
    "mosquito": "mosquitoes", "volcano": "volcanoes", "tornado": "tornadoes",
}  # fmt: skip
# Other drawings that show one thing each. No test asks about them, and training may.
MORE_THINGS = tuple(
    name.strip()
    for name in """
    gorilla, orangutan, poodle, raccoon, leopard, donkey, boar, goat, llama, mammoth,
    rhinoceros, hippopotamus, rat, hamster, chipmunk, beaver, hedgehog, bat, polar bear, sloth, otter, skunk, kangaroo,
    badger, turkey, chicken, rooster, dove, eagle, dodo, feather, flamingo, peacock, parrot, goose, phoenix, lizard,
    dragon, sauropod, seal, spiral shell, bug, honeybee, beetle, lady beetle, cricket, cockroach,
    scorpion, mosquito, worm, microbe, bouquet, hibiscus, seedling, palm tree, shamrock, empty nest, melon, lime, mango,
    peach, kiwi fruit, olive, eggplant, hot pepper, bell pepper, cucumber, chestnut, bagel, waffle, hot dog, burrito,
    egg, fortune cookie, crab, lobster, shrimp, squid, oyster, birthday cake, cupcake, pie, chocolate bar, candy,
    honey pot, baby bottle, wine glass, cocktail glass, beer mug, spoon, jar, amphora, compass, mountain, volcano,
    brick, rock, hut, factory, mosque, fountain, ferris wheel, roller coaster, barber pole, train, tram, monorail,
    trolleybus, minibus, fire engine, police car, automobile, pickup truck, delivery truck, racing car, motor scooter,
    auto rickshaw, kick scooter, skateboard, roller skate, oil drum, fuel pump, wheel, stop sign, anchor, ring buoy,
    speedboat, ferry, ship, parachute, satellite, flying saucer, thermometer, sun, comet, tornado, cloud, rainbow,
    snowflake, snowman, droplet, christmas tree, firecracker, party popper, wind chime, ribbon, ticket, sports medal,
    soccer ball, baseball, volleyball, american football, flying disc, boxing glove, ice skate, fishing pole,
    diving mask, sled, curling stone, water pistol, crystal ball, magic wand, joystick, game die, puzzle piece,
    teddy bear, mirror ball, chess pawn, joker, sewing needle, knot, lab coat, safety vest, necktie, t shirt, coat,
    dress, kimono, sari, purse, handbag, backpack, hiking boot, top hat, graduation cap, military helmet, lipstick,
    ring, gem stone, loudspeaker, megaphone, postal horn, microphone, headphone, radio, saxophone, accordion, banjo,
    flute, pager, fax machine, battery, desktop computer, printer, trackball, floppy disk, abacus, movie camera,
    film projector, clapper board, videocassette, light bulb, flashlight, notebook, scroll, newspaper, bookmark, label,
    money bag, coin, credit card, receipt, envelope, package, postbox, fountain pen, paintbrush, crayon, briefcase,
    file folder, calendar, clipboard, pushpin, paperclip, file cabinet, wastebasket, axe, dagger, boomerang, shield,
    carpentry saw, wrench, screwdriver, gear, clamp, balance scale, hook, toolbox, magnet, ladder, alembic, test tube,
    microscope, telescope, satellite antenna, syringe, pill, crutch, stethoscope, elevator, mirror, window, bed,
    plunger, shower, bathtub, mouse trap, razor, safety pin, broom, basket, bucket, toothbrush, sponge,
    fire extinguisher, shopping cart, cigarette, coffin, headstone, funeral urn, nazar amulet, placard
    """.split(",")
)
EVERY_THING = (*THINGS, *MORE_THINGS)


def plural(name: str) -> str:
    """Return the plural of a name: "foxes".

    Args:
        name (str): The name of one of ``EVERY_THING``.

    Returns:
        Its plural.
    """
    if name in IRREGULAR:
        return IRREGULAR[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def singular(name: str) -> str:
    """Return a name with its indefinite article: "a fox".

    Args:
        name (str): The name of a thing or of a colour.

    Returns:
        "a" or "an" and the name.
    """
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
