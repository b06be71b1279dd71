"""Each control changes what it says and nothing else."""

import numpy as np
import pytest
from PIL import Image

from dip_env import EpisodeConfig, Scene, ToyScenes
from dip_env.errors import ConfigError
from dip_wrappers.controls import (
    blank_crops,
    blurred_overview,
    coarse_overview,
    crops_from_elsewhere,
    first_regions,
    no_image,
    own_looks,
    placed_looks,
    random_looks,
    resized_looks,
)

CONFIG = EpisodeConfig(view_size=256, crop_size=64, max_looks=2, max_turns=4)


def ruler(name="ruler"):
    """A scene of 256 x 256 pixels whose red is x and whose green is y, shown at its own size."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    picture = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    box = np.array([[10, 10, 20, 40]], np.float32)
    return Scene(
        scene_id=name,
        size=(256, 256),
        boxes=box,
        visible_boxes=box,
        visible_share=np.ones(1, np.float32),
        ignore=np.zeros(1, bool),
        labels=("person",),
        load_image=lambda: Image.fromarray(picture),
    )


def look(control, text, scene=None):
    episode = control.episode(scene or ruler(), CONFIG)
    return episode, episode.step(text)


def words(control, text, scene=None):
    return look(control, text, scene)[0].transcript[1].text


def test_random_looks_keep_the_size_and_forget_the_position():
    places = set()
    for scene in map(ruler, "abcdefgh"):
        (episode, turn) = look(
            random_looks(), "<look>[[0,0,30,20],[200,200,256,256]]</look>", scene
        )
        sides = episode.looks[:, 2:] - episode.looks[:, :2]
        assert sides.tolist() == [[30, 20], [56, 56]]
        assert (episode.looks >= 0).all() and (episode.looks <= 256).all()
        # The red of a crop's left edge is the x of its region: it shows the region that its text
        # names.
        for crop in turn.crops:
            assert crop.image[0, 0, 0] == pytest.approx(crop.region[0], abs=1.5)
        places.add(tuple(episode.looks[:, 0]))
        # Asked for elsewhere at the same size, the same region comes.
        other = words(random_looks(), "<look>[[90,90,120,110],[1,1,57,57]]</look>", scene)
        assert other == episode.transcript[1].text
    assert len(places) == 8
    assert words(random_looks(1), "<look>[[0,0,30,20]]</look>") != words(
        random_looks(2), "<look>[[0,0,30,20]]</look>"
    )


def test_random_looks_are_spread_evenly_over_where_they_fit():
    # A region of 128 x 256 fits at x = 0..128 and only at y = 0: mean 64, sd 37 / sqrt(200) = 2.6.
    text = "<look>[[0,0,128,256]]</look>"
    regions = [look(random_looks(seed), text)[0].looks[0] for seed in range(200)]
    x, y = np.array(regions)[:, :2].T
    assert set(y) == {0.0}
    assert x.min() >= 0 and x.max() <= 128
    assert x.mean() == pytest.approx(64, abs=10)
    assert np.histogram(x, bins=4, range=(0, 129))[0].min() > 25


def test_a_region_that_runs_outside_is_replaced_by_the_size_of_what_it_would_show():
    episode, _ = look(random_looks(), "<look>[[-40,-40,30,20]]</look>")
    assert (episode.looks[0, 2:] - episode.looks[0, :2]).tolist() == [30, 20]


def test_every_look_of_an_episode_gets_positions_of_its_own():
    episode = random_looks().episode(ruler(), CONFIG)
    episode.step("<look>[[0,0,30,20]]</look><look>[[0,0,30,20]]</look>")
    assert len({tuple(region) for region in episode.looks.tolist()}) == 2
    split = random_looks().episode(ruler(), CONFIG)
    split.step("<look>[[0,0,30,20]]</look>")
    split.step("<look>[[0,0,30,20]]</look>")
    assert split.looks.tolist() == episode.looks.tolist()


def test_placed_looks_go_through_the_list_and_begin_anew():
    places = [[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10]]
    control = placed_looks(lambda scene, view: places)
    episode = control.episode(ruler(), CONFIG)
    episode.step("<look>[[50,50,60,60]]</look>")
    assert episode.looks.tolist() == places[:3]
    episode.step("<look>[[50,50,60,60]]</look>")
    assert episode.looks.tolist() == places
    few = placed_looks(lambda scene, view: places[:1]).episode(ruler(), CONFIG)
    few.step("<look>[[50,50,60,60]]</look>")
    few.step("<look>[[50,50,60,60]]</look>")
    assert few.looks.tolist() == [places[0], places[0]]


def test_placed_looks_as_asked_change_positions_and_nothing_else():
    # Middles 25,25 and 250,250: the second cannot be centred on without leaving the image.
    places = [[20, 20, 30, 30], [245, 245, 255, 255]]
    control = placed_looks(lambda scene, view: places, as_asked=True)
    episode = control.episode(ruler(), CONFIG)
    episode.step("<look>[[100,100,120,110]]</look>")
    assert episode.looks.tolist() == [[15, 20, 35, 30]]
    episode.step("<look>[[100,100,140,120],[0,0,20,20]]</look>")
    # The second region, then the first again, each as large as the region that was asked for.
    assert episode.looks.tolist()[1:] == [[216, 236, 256, 256], [15, 15, 35, 35]]


def test_the_first_regions_of_each_look_are_kept():
    said = "<look>[[0,0,30,20],[5,5,9,9],[7,7,9,9]]</look>"
    assert words(first_regions(1), said) == "<look>[[0,0,30,20]]</look>"
    assert words(first_regions(2), said) == "<look>[[0,0,30,20],[5,5,9,9]]</look>"
    assert words(first_regions(3), said) == said
    assert [first_regions(k).name for k in (1, 2)] == ["first region only", "first 2 regions only"]
    with pytest.raises(ConfigError, match="first_regions: expected at least 1, got 0"):
        first_regions(0)


def test_regions_grow_and_shrink_around_their_middle_and_stay_in_the_image():
    said = "<look>[[100,100,140,120],[0,0,20,20]]</look>"
    assert words(resized_looks(0.5), said) == "<look>[[110,105,130,115],[5,5,15,15]]</look>"
    assert words(resized_looks(2), said) == "<look>[[80,90,160,130],[0,0,30,30]]</look>"
    assert words(resized_looks(1), said) == said
    assert resized_looks(1.4).name == "regions 1.4x as wide"
    for factor in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="resized_looks: expected a finite factor > 0"):
            resized_looks(factor)


def test_a_blanked_crop_is_grey_and_keeps_its_text():
    episode, turn = look(blank_crops(), "<look>[[0,0,64,32]]</look>")
    _, plain = look(own_looks(), "<look>[[0,0,64,32]]</look>")
    assert np.unique(turn.message.images[0]).tolist() == [128]
    assert turn.message.images[0].shape == (32, 64, 3)
    assert np.array_equal(episode.observation().crops[0].image, turn.message.images[0])
    assert turn.message.text == plain.message.text
    assert np.array_equal(episode.opening.images[0], np.asarray(ruler().image))


def test_a_crop_from_another_position_has_the_size_and_the_text_of_the_asked_one():
    text = "<look>[[100,100,164,132]]</look>"
    episode, turn = look(crops_from_elsewhere(), text)
    _, plain = look(own_looks(), text)
    assert turn.message.text == plain.message.text
    assert np.array_equal(episode.looks, [[100, 100, 164, 132]])
    assert turn.crops[0].region.tolist() == [100, 100, 164, 132]
    # 64 x 32 pixels of a ruler, at its own scale: red runs over 64 columns, green over 32 rows.
    red, green = (
        turn.crops[0].image[..., 0].astype(float),
        turn.crops[0].image[..., 1].astype(float),
    )
    assert red[0, -1] - red[0, 0] == pytest.approx(63, abs=1)
    assert green[-1, 0] - green[0, 0] == pytest.approx(31, abs=1)
    apart = red[0, 0] > 163 or red[0, -1] < 100 or green[0, 0] > 131 or green[-1, 0] < 100
    assert apart
    again = look(crops_from_elsewhere(), text)[1].crops[0].image
    assert np.array_equal(again, turn.crops[0].image)
    assert not np.array_equal(look(crops_from_elsewhere(1), text)[1].crops[0].image, again)


def test_of_the_whole_image_there_is_no_other_position():
    _, turn = look(crops_from_elsewhere(), "<look>[[0,0,256,256]]</look>")
    _, plain = look(own_looks(), "<look>[[0,0,256,256]]</look>")
    assert np.array_equal(turn.crops[0].image, plain.crops[0].image)


def test_a_blurred_edge_is_a_gaussians_integral_and_crops_stay_sharp():
    half = np.zeros((256, 256, 3), np.uint8)
    half[:, 128:] = 255
    scene = ruler()
    scene.__dict__["image"] = Image.fromarray(half)
    control = blurred_overview(8.0)
    shown = control.episode(scene, CONFIG).opening.images[0][128, :, 0] / 255
    # Pixel centres 128 + d lie d + .5 from the edge: Phi(.5/8), Phi(8.5/8), Phi(-8.5/8).
    assert shown[128] == pytest.approx(0.525, abs=0.02)
    assert shown[136] == pytest.approx(0.856, abs=0.02)
    assert shown[119] == pytest.approx(0.144, abs=0.02)
    crop = look(control, "<look>[[120,0,136,16]]</look>", scene)[1].crops[0].image
    _, plain = look(own_looks(), "<look>[[120,0,136,16]]</look>", scene)
    assert np.array_equal(crop, plain.crops[0].image)
    for radius in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="blurred_overview: expected a finite radius > 0"):
            blurred_overview(radius)


def test_without_an_image_everything_is_grey_and_the_ground_truth_still_scores():
    episode = no_image().episode(ToyScenes()[0])
    assert np.unique(episode.opening.images[0]).tolist() == [128]
    turn = episode.step("<think>blind</think><look>[[0,0,98,56]]</look>")
    assert np.unique(turn.crops[0].image).tolist() == [128]
    end = episode.step("<answer>[[28,67,84,227],[196,93,238,213],[350,53,420,267]]</answer>")
    assert end.result.terms.accuracy == 1.0


def test_a_coarse_overview_has_its_size_and_no_details_and_crops_stay_sharp():
    board = np.kron(np.indices((64, 64)).sum(axis=0) % 2, np.ones((4, 4)))  # fields of 4 pixels
    scene = ruler()
    scene.__dict__["image"] = Image.fromarray(np.repeat(255 * board[..., None], 3, 2).astype("u1"))
    shown = coarse_overview(32).episode(scene, CONFIG).opening.images[0]
    assert shown.shape == (256, 256, 3)
    assert np.ptp(shown[32:-32, 32:-32]) < 20  # grey: 8 pixels in one
    plain = own_looks().episode(scene, CONFIG).opening.images[0]
    assert np.array_equal(coarse_overview(256).episode(scene, CONFIG).opening.images[0], plain)
    crops = [
        look(control, "<look>[[120,0,136,16]]</look>", scene)[1].crops[0].image
        for control in (coarse_overview(32), own_looks())
    ]
    assert np.array_equal(*crops)
    with pytest.raises(ConfigError, match="side of at least 1 pixel, got 0"):
        coarse_overview(0)
