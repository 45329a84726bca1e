from tests.test_manager import driven

__all__ = ["driven"]
