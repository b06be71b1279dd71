from dip_agents.runtime.errors import NonFiniteUpdateError, error_line


def test_the_notes_of_an_error_follow_its_message_in_one_line():
    error = NonFiniteUpdateError("expected a finite loss, got nan")
    assert error_line(error) == "expected a finite loss, got nan"
    error.add_note("at step 4")
    error.add_note("go on with resume")
    assert error_line(error) == "expected a finite loss, got nan; at step 4; go on with resume"
