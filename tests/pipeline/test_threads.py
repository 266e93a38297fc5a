"""Memory that a thread keeps, for the spectral filter."""

import threading

import torch

from svdstory.pipeline.spectral.threads import kept_memory, one_thread_each


def test_a_thread_gets_the_same_memory_again_whatever_inference_mode_it_is_in():
    like = torch.zeros(1, 3, 5)
    with torch.inference_mode():
        first = kept_memory(like, 2)
    with torch.no_grad():
        again = kept_memory(like, 3)
        again[0].add_(1)
    with torch.inference_mode():
        again[0].add_(1)
    assert again[0] is first[0] and again[1] is first[1] and len({t.data_ptr() for t in again}) == 3
    assert all(t.shape == like.shape and t.dtype == like.dtype for t in again)
    assert len(kept_memory(like, 1)) == 1 and kept_memory(like.double(), 1)[0].dtype == torch.float64


def test_two_threads_share_no_memory_and_keep_to_one_thread_each():
    """Each waits for the other, so that one thread cannot do both."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both = threading.Barrier(2, timeout=60)
        one_thread_each(lambda i: both.wait(), 2)
        torch.set_num_threads(2)
        found = one_thread_each(
            lambda i: (both.wait(), kept_memory(torch.zeros(1, 3, 5), 1)[0].data_ptr(), torch.get_num_threads()), 2
        )
    finally:
        torch.set_num_threads(before)
    (_, first, _), (_, second, _) = found
    assert first != second and [number for _, _, number in found] == [1, 1]
