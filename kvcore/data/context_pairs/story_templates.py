"""The little stories of which one fact is changed, and the words that fill them.

A table holds a story, a line each: first its sentences, then the questions, each behind the name of
the fact that it asks for. A fact is written as ``{colour}``; a question names no fact that it asks
for. Words of different facts are never the same, so that a word tells which fact it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORDS: Mapping[str, tuple[str, ...]] = {
    name: tuple(words.strip() for words in line.split(","))
    for name, line in (
        ("hero", "Ada, Ben, Carla, Dev, Elena, Farid, Grace, Hugo, Ines, Jonas, Kira, Liam, Mona"),
        ("friend", "Olga, Pavel, Quinn, Rosa, Sami, Tessa, Umar, Vera, Wim, Xenia, Yusuf, Zoe"),
        ("job", "baker, carpenter, doctor, farmer, gardener, judge, lawyer, painter, teacher"),
        ("town", "Lisbon, Oslo, Vienna, Dublin, Prague, Kyoto, Nairobi, Quito, Havana, Toronto"),
        ("day", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
        (
            "place",
            "bakery, bridge, castle, harbour, library, museum, park, theatre, well, windmill",
        ),
        ("animal", "cat, dog, goat, hamster, horse, parrot, rabbit, sheep, turtle, donkey"),
        ("thing", "basket, blanket, camera, drum, hammer, kite, lantern, map, mirror, violin"),
        ("colour", "black, blue, brown, green, grey, purple, red, white, yellow, silver"),
        ("food", "bread, cheese, cherries, noodles, pancakes, pears, rice, soup, plums, beans"),
        ("drink", "cocoa, coffee, lemonade, milk, tea, water, cider, buttermilk"),
        ("season", "spring, summer, autumn, winter"),
        ("weather", "foggy, rainy, snowy, stormy, sunny, windy, cloudy, frosty"),
        ("vehicle", "bicycle, boat, bus, tram, truck, sledge, canoe, van"),
        ("material", "brick, clay, glass, marble, straw, wood, copper, stone"),
        ("sport", "badminton, chess, football, hockey, rugby, tennis, volleyball, golf"),
        ("subject", "biology, chemistry, geography, history, law, music, physics, poetry"),
        (
            "relative",
            "aunt, brother, cousin, daughter, father, grandmother, mother, nephew, sister",
        ),
        ("flower", "daisies, lilies, poppies, roses, tulips, violets, daffodils, orchids"),
        ("room", "attic, bathroom, cellar, garage, kitchen, bedroom, hallway, pantry"),
    )
}


@dataclass(frozen=True)
class Story:
    """A story with facts left open, and the question about each fact that may be changed."""

    text: str
    questions: Mapping[str, str]  # by the fact that each asks for


def _stories(table: str) -> tuple[Story, ...]:
    stories = []
    for block in table.strip().split("\n\n"):
        text, *questions = block.replace("\\\n", "").splitlines()
        asked = (line.split(" | ") for line in questions)
        stories.append(Story(text.strip(), {fact.strip(): ask.strip() for fact, ask in asked}))
    return tuple(stories)


STORIES = _stories(
    """
{hero} is a {job} and lives in {town}. Every {day} {hero} walks to the {place} with a {animal}. \
Last time {friend} came along and brought some {food}. They talked until it was dark.
job | What does {hero} do for a living?
town | Where does {hero} live?
day | On which day does {hero} take that walk?
place | Where does {hero} walk to?
animal | Which animal does {hero} take along?
friend | Who came along last time?
food | What was brought to eat?

It was a {weather} morning in {town}. {hero} looked for a {colour} {thing} that had been lost the \
day before. In the end it lay in the {room}, where the {relative} of {friend} had put it. \
Nobody was cross about it.
weather | What was the weather like that morning?
town | In which town did this happen?
colour | Which colour was the lost thing?
thing | What had been lost?
room | Where was it in the end?
relative | Which relative of {friend} had put it there?

In {season} {hero} travels to {town} by {vehicle}. There {hero} stays with a {relative} who keeps \
a {animal} and grows {flower}. In the evening they drink {drink} and play {sport}. \
{friend} would like to go there too.
season | When in the year does {hero} travel?
town | Where does {hero} travel to?
vehicle | How does {hero} travel?
relative | With whom does {hero} stay?
animal | Which animal is kept there?
flower | Which flowers are grown there?
drink | What do they drink in the evening?
sport | What do they play in the evening?

{hero} and {friend} built a small house of {material} near the {place}. They painted its door \
{colour} and planted {flower} in front of it. A {animal} moved in on {day}. \
Now they have to build another one.
material | What is the house made of?
place | Near what does the house stand?
colour | Which colour did they paint the door?
flower | What did they plant in front of it?
animal | Which animal moved in?
day | When did somebody move in?

{hero} studies {subject} in {town}. On {day} there is no class, and {hero} plays {sport} with \
{friend}. Afterwards they share a plate of {food} and a pot of {drink}. \
Both go home early.
subject | What does {hero} study?
town | Where does {hero} study?
day | On which day is there no class?
sport | What do the two play?
friend | With whom does {hero} play?
food | What is on the plate?
drink | What is in the pot?

The {job} of the village had a {animal} that carried a {thing} on its back. One {weather} day it \
ran away to the {place}. {hero} followed it by {vehicle} and lured it home with {food}. \
The whole village laughed.
job | Whose animal was it, by trade?
animal | Which animal ran away?
thing | What did it carry on its back?
weather | What was the weather like when it ran away?
place | Where did it run to?
vehicle | How was it followed?
food | With what was it lured home?

For the birthday of {friend}, {hero} bought a {thing} of {material}. It was wrapped in {colour} \
paper and hidden in the {room}. On {day} there was a party with {food} and {drink}. \
Everybody sang until midnight.
thing | What did {hero} buy?
material | What is the present made of?
colour | Which colour was the paper?
room | Where was the present hidden?
day | When was the party?
food | What was there to eat?
drink | What was there to drink?

A stranger came to {town} in {season}. She sold {flower} beside the {place} and said that she had \
been a {job} once. {hero} gave her a {thing} and some {drink}. \
Nobody ever learned her name.
town | Where did the stranger come to?
season | When in the year did she come?
flower | What did she sell?
place | Beside what did she sell them?
job | What had she been once?
thing | What did {hero} give her, beside the drink?
drink | What did she get to drink?

{hero} teaches {subject} and lives above the {place}. The flat has a {colour} door and a \
{room} full of books. Each {season} the {relative} of {hero} comes to visit by {vehicle}. \
They are fond of each other.
subject | What does {hero} teach?
place | Above what does {hero} live?
colour | Which colour is the door?
room | Which part of the flat is full of books?
season | When in the year does the visitor come?
relative | Which relative of {hero} comes to visit?
vehicle | How does the visitor come?

The team of {town} won at {sport} on a {weather} {day}. {friend} was the best of them and was \
given a {thing} of {material}. {hero}, who had come with a {relative}, cheered the most. \
The next match is in a month.
town | Which team won?
sport | What was played?
weather | What was the weather like?
day | On which day did the team win?
friend | Who was the best of the team?
thing | What was the best of them given?
material | What was the prize made of?
relative | With whom had {hero} come?
"""
)
